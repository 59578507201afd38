// What changed in the range: a band of the endpoint's status on top, and every change as a line of a list.
import { draw, make, write } from "./dom.js";
import * as times from "./times.js";
import { say, words } from "./words.js";

const TONES = { good: "ark-dot-good", warn: "ark-dot-warn", bad: "ark-dot-bad", off: "ark-dot-idle" };
const percent = (share) => `${share > 0.9995 || share === 0 ? Math.round(share * 100) : Number(Math.max(share * 100, 0.1).toFixed(1))} %`;

export class Changes {
  constructor(root) {
    const part = (name) => root.querySelector(`[data-part=${name}]`);
    this.root = root;
    this.parts = { band: part("band"), shares: part("shares"), count: part("count"), list: part("list"), note: part("note"), details: part("details"), why: part("why") };
  }

  // `answer` as in the data contract. The band is its own range, which ends now: on long ranges the charts' last point is
  // older, and the status of what is wrong now must not wait for it. `why`: the sentence of an answer that did not come.
  show(answer, why = "") {
    const { marks, band, from, to } = answer;
    const span = to - from;
    const place = (at) => `${((Math.min(Math.max(at, from), to) - from) / span) * 100}%`;
    const held = new Map();
    const segments = band.map((each) => {
      const length = each.to - each.from;
      const known = held.get(each.label) ?? { tone: each.tone, seconds: 0 };
      held.set(each.label, { ...known, seconds: known.seconds + length });
      const words = `${each.label} · ${times.full(each.from)} – ${times.full(each.to)}`;
      return draw("rect", { x: place(each.from), width: `${(length / span) * 100}%`, y: 6, height: 10, class: `mon-band-${each.tone}` }, title(words));
    });
    const pins = marks.map((mark) =>
      draw("rect", { x: place(mark.at), width: 2, y: 2, height: 18, class: `mon-pin mon-pin-${mark.kind}` },
        title([times.full(mark.at), mark.title, mark.by].filter(Boolean).join(" · "))));
    const unknown = draw("rect", { x: 0, width: "100%", y: 6, height: 10, class: "mon-band-unknown" });
    this.parts.band.replaceChildren(unknown, ...segments, ...pins);
    const total = [...held.values()].reduce((sum, each) => sum + each.seconds, 0) || 1;
    this.parts.shares.replaceChildren(...[...held].filter(([, each]) => each.seconds > 0).map(([label, each]) =>
      make("li", {}, make("span", { className: `ark-dot ${TONES[each.tone] ?? ""}`, text: `${label} ${percent(each.seconds / total)}` }))));
    write(this.parts.count, marks.length === 1 ? words.one_change : say("changes", { n: marks.length }));
    this.parts.details.hidden = marks.length === 0;
    write(this.parts.note, answer.note ?? "");
    this.parts.list.replaceChildren(...[...marks].sort((one, other) => other.at - one.at).map(line));
    this.parts.why.hidden = !why;
    write(this.parts.why.querySelector("[data-part=sentence]"), why);
    this.root.removeAttribute("aria-busy");
  }

  // Nothing is known of the range: what was drawn of another one would be taken for it.
  fail(why) {
    this.show({ marks: [], band: [], from: 0, to: 1 }, why);
  }
}

function title(text) {
  const element = draw("title");
  element.textContent = text;
  return element;
}

function line(mark) {
  return make("li", {},
    make("time", { datetime: new Date(mark.at * 1000).toISOString(), text: times.full(mark.at) }),
    make("i", { className: `mon-dot mon-pin-${mark.kind}`, "aria-hidden": "true" }),
    make("span", {},
      mark.url ? make("a", { href: mark.url, text: mark.title }) : make("b", { text: mark.title }),
      make("span", { className: "ark-hint", text: ` ${[mark.by, mark.detail].filter(Boolean).join(" · ")}` })));
}
