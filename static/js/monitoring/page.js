// The monitoring page of an endpoint: filters and address, groups of charts with one cursor, marks, refresh by itself.
import * as times from "./times.js";
import { fromForm, isFixed, read, remember, toAddress, toForm, toQuery, unfixed } from "./filters.js";
import { Loader, ask } from "./loader.js";
import { Changes } from "./marks.js";
import { Panel } from "./panel.js";
import { forget } from "./palette.js";
import { make, write } from "./dom.js";
import { OwnRange, within } from "./range.js";
import { showTiles } from "./tiles.js";
import { say, words } from "./words.js";

const root = document.getElementById("monitoring");
const form = document.getElementById("monitoring-filters");
const TROUBLES = new Set(["off", "unreachable", "slow", "error", "too_much", "busy", "away", "refused"]);
const PASSING = new Set(["unreachable", "slow", "busy", "away", "error"]); // looked at again soon, by itself
const PASSING_SECONDS = 10;

let filters = read();
let shown = null; // {from, to} as the last answer has it
let marksStop = null;
let refreshTimer = null;
let refreshedAt = 0;

const voice = document.getElementById("ark-voice");
const speak = (text) => voice && (voice.textContent = text);

// --- groups and their panels --------------------------------------------------------------------------------------------
const hooks = {
  onZoom: (from, to) => zoom(from, to),
  onZoomOut: () => zoomOut(),
  onQueries: (panel) => showQueries(panel),
  onSay: speak,
};
const groups = [...root.querySelectorAll("[data-group]")].map((element) => ({
  element,
  address: element.dataset.src,
  note: element.querySelector("[data-part=note]"),
  spans: (element.dataset.spans ?? "").split(" ").filter(Boolean).map((span) => span.split("-").map(Number)),
  panels: [...element.querySelectorAll("[data-panel]")].map((each) => new Panel(each, hooks)),
}));
const panels = groups.flatMap((group) => group.panels);
const changes = new Changes(document.getElementById("monitoring-band"));

// In steps of 100 pixels: a window a little wider asks for what is known already.
const width = () => Math.ceil(Math.max(...panels.map((panel) => panel.width), 300) / 100) * 100;
const loader = new Loader(groups, {
  width,
  onLoading(group, isQuiet) {
    group.element.setAttribute("aria-busy", "true");
    if (!isQuiet) for (const panel of group.panels) panel.loading();
  },
  onAnswer: answered,
});

function answered(group, answer) {
  group.element.removeAttribute("aria-busy");
  const isTrouble = TROUBLES.has(answer.state);
  const why = isTrouble ? trouble(answer) : answer.message;
  group.why = why;
  group.isPassing = PASSING.has(answer.state);
  showNotes();
  schedule();
  if (answer.from) {
    // The file holds the very points that are drawn.
    const query = toQuery({ ...filters, from: answer.from, to: answer.to, step: answer.step }, { width: width() });
    for (const panel of group.panels) panel.csvAddress = `${panel.element.dataset.csv}?${query}`;
    // Bars have longer steps than lines; a link names the finest.
    const isFiner = shown?.question !== group.question || answer.step < shown.step;
    shown = { from: answer.from, to: answer.to, step: isFiner ? answer.step : shown.step, question: group.question };
    write(document.getElementById("monitoring-span"), say("span", { from: times.full(answer.from), to: times.full(answer.to) }));
    seeSwitches();
  }
  if (!isTrouble || answer.tiles) showTiles(group.element, answer.tiles);
  drawAll(group, answer, isTrouble, why);
}

// One panel after the other, with a breath between them: the pointer never waits for a whole group.
async function drawAll(group, answer, isTrouble, why) {
  const turn = (group.turn = (group.turn ?? 0) + 1);
  for (const panel of group.panels) {
    // What was drawn before the trouble stays, under the sentence that says so; filters that changed empty it.
    if (isTrouble && panel.isDrawnFor === group.question) panel.settle();
    else panel.show(answer, answer.panels?.[panel.id] ?? null, why);
    panel.isDrawnFor = isTrouble ? panel.isDrawnFor : group.question;
    await new Promise((resolve) => setTimeout(resolve));
    if (group.turn !== turn) return;
  }
}

// The charts of a version switch are there where the range has one.
function seeSwitches() {
  for (const { element, spans } of groups) {
    if (spans.length) element.hidden = !spans.some(([began, ended]) => began <= shown.to && (!ended || ended >= shown.from));
  }
}

function trouble(answer) {
  if (answer.state === "away") return words.away;
  return answer.message || say("refused", { status: answer.status ?? answer.state });
}

// What ails more than one group is said once, on top.
const pageNote = document.getElementById("monitoring-note");
function showNotes() {
  const shared = groups.map((group) => group.why).find((why, at, all) => why && (all.indexOf(why) !== at || groups[at].panels.length === 0));
  showNote(pageNote, shared ?? "");
  for (const group of groups) showNote(group.note, group.why && group.why !== shared ? group.why : "");
}
function showNote(note, why) {
  note.hidden = !why;
  if (!why) return;
  write(note.querySelector("[data-part=sentence]"), why);
}

for (const group of groups) group.note.querySelector("button").addEventListener("click", () => loader.retry(group));
changes.parts.why.querySelector("button").addEventListener("click", loadMarks);
pageNote.querySelector("button").addEventListener("click", () => load({ isQuiet: false }));

// --- what is looked at --------------------------------------------------------------------------------------------------
function apply(next, { isNew = true } = {}) {
  filters = next;
  toForm(form, filters);
  remember(filters, { isNew });
  root.classList.toggle("is-zoomed", isFixed(filters));
  const [reset, out] = [document.getElementById("monitoring-reset"), document.getElementById("monitoring-out")];
  reset.hidden = out.hidden = !isFixed(filters);
  load({ isQuiet: false });
}

function load({ isQuiet }) {
  refreshedAt = Date.now();
  for (const group of groups) Object.assign(group, { question: toQuery(filters), isPassing: false });
  loader.reload(filters, { isQuiet });
  loadMarks();
  schedule();
}

async function loadMarks() {
  marksStop?.abort();
  const stop = (marksStop = new AbortController());
  const answer = await ask(`${root.dataset.marks}?${toQuery(filters)}`, stop.signal);
  if (stop.signal.aborted) return;
  if (answer.marks) changes.show(answer);
  else changes.fail(trouble(answer));
  for (const panel of panels) panel.setMarks(answer.marks ?? []);
}

const zoomTo = (from, to) => {
  const [start, end] = within(from, to);
  apply({ ...unfixed(filters), from: String(start), to: String(end) });
};
function zoom(from, to) {
  zoomTo(from, to);
  speak(say("span", { from: times.full(from), to: times.full(to) }));
}
function zoomOut() {
  if (!shown) return;
  const half = shown.to - shown.from;
  zoomTo(shown.from - half / 2, shown.to + half / 2);
}
function reset() {
  apply(unfixed(filters));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  apply(fromForm(form, filters));
});
form.addEventListener("change", (event) => {
  const next = fromForm(form, filters);
  if (event.target.name === "auto") {
    // How often is no other picture: nothing to go back to.
    filters = next;
    remember(filters, { isNew: false });
    schedule();
  } else apply(next);
});
addEventListener("popstate", () => apply(read(), { isNew: false }));
document.getElementById("monitoring-refresh").addEventListener("click", () => load({ isQuiet: true }));
document.getElementById("monitoring-reset").addEventListener("click", reset);
document.getElementById("monitoring-out").addEventListener("click", zoomOut);

const ownRange = new OwnRange(document.getElementById("monitoring-range"), (from, to) =>
  apply({ ...unfixed(filters), from: String(Math.floor(from)), to: String(Math.ceil(to)) }));
document.getElementById("monitoring-own").addEventListener("click", () => {
  const now = Math.floor(Date.now() / 1000);
  ownRange.open(shown?.from ?? now - 3600, shown?.to ?? now);
});
document.getElementById("monitoring-link").addEventListener("click", (event) => {
  // A link to this very picture: the times are fixed in it.
  const fixed = shown ? { ...filters, from: String(shown.from), to: String(shown.to), step: String(shown.step) } : filters;
  event.currentTarget.dataset.copy = location.origin + toAddress(fixed);
});

// --- refresh by itself --------------------------------------------------------------------------------------------------
function schedule() {
  clearTimeout(refreshTimer);
  const chosen = isFixed(filters) ? 0 : Number(filters.auto ?? form.dataset.auto ?? 0);
  const seconds = groups.some((group) => group.isPassing) ? Math.min(chosen || PASSING_SECONDS, PASSING_SECONDS) : chosen;
  if (!seconds || document.hidden) return;
  const wait = Math.max(refreshedAt + seconds * 1000 - Date.now(), 0);
  refreshTimer = setTimeout(() => (loader.isIdle ? load({ isQuiet: true }) : schedule()), Math.max(wait, 250));
}
document.addEventListener("visibilitychange", schedule);

// --- the queries behind a panel -----------------------------------------------------------------------------------------
function showQueries(panel) {
  const dialog = document.getElementById("monitoring-queries");
  write(dialog.querySelector("[data-part=title]"), panel.title);
  const template = document.getElementById("monitoring-query");
  const seen = new Map();
  for (const each of panel.queries) seen.set(each.query, [...(seen.get(each.query) ?? []), each.label]);
  const blocks = [...seen].map(([query, labels]) => {
    const block = template.content.cloneNode(true);
    block.querySelector("[data-part=labels]").textContent = labels.join(", ");
    block.querySelector("code").textContent = query;
    block.querySelector("[data-copy]").dataset.copy = query;
    return block;
  });
  dialog.querySelector("[data-part=body]").replaceChildren(...(blocks.length ? blocks : [make("p", { text: words.no_queries })]));
  dialog.showModal();
}

document.addEventListener("ark:themed", () => {
  forget();
  for (const panel of panels) panel.redraw();
});

apply(filters, { isNew: false });
