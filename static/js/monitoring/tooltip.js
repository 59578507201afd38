// What stands beside the cursor of the chart that the pointer is on: the moment, every series exactly, and what changed there.
import { make } from "./dom.js";
import { exact } from "./figures.js";
import * as times from "./times.js";
import { words } from "./words.js";

const GAP = 12;

export class Tooltip {
  constructor(box) {
    this.box = box;
    this.element = make("div", { className: "mon-tip", "aria-hidden": "true", hidden: true });
    box.append(this.element);
  }

  hide() {
    this.element.hidden = true;
  }

  // `rows`: [{tone, label, value, before, unit}]; `marks`: those under the cursor; `left`: pixels in the box, which is
  // `width` wide (asked of the drawing: asking the page would have it laid out at every move).
  show({ at, rows, measure, marks, left, width }) {
    const hasBefore = rows.some(({ before }) => before !== undefined);
    const lines = rows.flatMap(({ tone, label, value, before }) => [
      make("i", { className: `mon-swatch ${tone}` }), make("span", { text: label }), make("b", { text: exact(value, measure) }),
      hasBefore ? make("span", { className: "mon-tip-before", text: before === undefined ? "" : exact(before, measure) }) : null,
    ]);
    const changes = marks.map((mark) =>
      make("div", { className: `mon-tip-mark mon-mark-${mark.kind}` },
        make("b", { text: mark.title }),
        make("span", { text: [times.full(mark.at), mark.by, mark.detail].filter(Boolean).join(" · ") }),
      ));
    const head = make("div", { className: "mon-tip-at" },
      make("span", { text: times.full(at) }), hasBefore ? make("span", { text: words.before }) : null);
    const figures = make("div", { className: `mon-tip-rows${hasBefore ? " has-before" : ""}` }, ...lines);
    this.element.replaceChildren(head, figures, ...changes);
    this.element.hidden = false;
    const own = this.element.offsetWidth;
    const place = left + GAP + own <= width ? left + GAP : Math.max(left - GAP - own, 0);
    this.element.style.transform = `translateX(${Math.round(place)}px)`;
  }
}
