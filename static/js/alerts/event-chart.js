// The curve of an event's rule around the time it fired, with its threshold; drawn by uPlot from the page's own JSON.
import { axisLook, clock, colours, faded } from "../charts.js";

const box = document.getElementById("event-chart");
const note = document.getElementById("event-chart-note");
const list = document.getElementById("event-chart-marks");
const REFRESH_MS = 15_000;
const NAMES = ["--ark-border", "--ark-hint", "--ark-accent-text", "--ark-bad-text"];
let plot = null;
let figures = null;
let look = null;

const at = clock(box?.dataset.zone, { hour: "2-digit", minute: "2-digit" });
const moment = clock(box?.dataset.zone, { month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit" });
const height = () => (window.innerWidth < 768 ? 200 : 240);
const width = () => Math.max(box.clientWidth, 240);

function written(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(size >= 1 ? 4 : 2)));
  if (!figures?.unit) return text;
  return figures.unit === "%" ? `${text}%` : `${text} ${figures.unit}`;
}

// What fired is shaded, from its beginning to its end or to now.
function shade(drawn) {
  const { ctx, bbox } = drawn;
  const place = (seconds) => Math.min(Math.max(drawn.valToPos(seconds, "x", true), bbox.left), bbox.left + bbox.width);
  const from = place(figures.starts_at);
  const to = place(figures.ends_at ?? figures.time[figures.time.length - 1]);
  ctx.save();
  ctx.fillStyle = faded(look.bad, 0.12);
  ctx.fillRect(from, bbox.top, Math.max(to - from, 1), bbox.height);
  ctx.restore();
}

// When a model server went or came back: a line across the chart, in words below it.
function mark(drawn) {
  const { ctx, bbox } = drawn;
  ctx.save();
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
  for (const each of figures.marks ?? []) {
    const place = Math.round(drawn.valToPos(each.at, "x", true));
    ctx.strokeStyle = each.is_bad ? look.bad : look.hint;
    ctx.beginPath();
    ctx.moveTo(place, bbox.top);
    ctx.lineTo(place, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

function listMarks() {
  const lines = (figures.marks ?? []).map((each) => {
    const line = document.createElement("li");
    line.textContent = `${at(each.at)} ${each.title}`;
    return line;
  });
  list.replaceChildren(...lines);
}

function range(_drawn, low, high) {
  const limit = figures.threshold ?? high;
  const top = Math.max(high ?? 0, limit ?? 0, 0);
  const bottom = Math.min(low ?? 0, limit ?? 0, 0);
  return [bottom, top === bottom ? bottom + 1 : top + (top - bottom) * 0.1];
}

function options() {
  const axis = axisLook(box, () => look);
  return {
    width: width(),
    height: height(),
    cursor: { drag: { x: false, y: false } },
    legend: { show: window.innerWidth >= 768 },
    scales: { x: { time: true }, y: { range } },
    hooks: { drawClear: [shade], draw: [mark] },
    axes: [
      { ...axis, space: 70, size: 32, values: (_plot, values) => values.map(at) },
      { ...axis, size: 60, values: (_plot, values) => values.map(written) },
    ],
    series: [
      { label: box.dataset.time, value: (_plot, value) => moment(value) },
      { label: box.dataset.value, stroke: look.line, width: 2, points: { size: 3 }, value: (_plot, value) => written(value) },
      { label: box.dataset.threshold, stroke: look.bad, width: 1.5, dash: [6, 4], points: { show: false }, value: (_plot, value) => written(value) },
    ],
  };
}

function draw() {
  const [border, hint, line, bad] = colours(box, NAMES);
  look = { border, hint, line, bad };
  plot?.destroy();
  box.replaceChildren();
  const limit = figures.time.map(() => figures.threshold);
  plot = new uPlot(options(), [figures.time, figures.values, limit], box);
}

function say(text) {
  note.textContent = text;
}

async function load() {
  try {
    const answer = await fetch(box.dataset.src, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(String(answer.status));
    const found = await answer.json();
    // What was drawn stays while Prometheus is away; the sentence says why it does not go on.
    if (found.time.length) {
      figures = found;
      draw();
      listMarks();
    } else if (!plot) box.hidden = true;
    say(found.message || found.summary);
  } catch {
    if (!plot) box.hidden = true;
    say(box.dataset.failed);
  }
}

if (box && window.uPlot) {
  load();
  new ResizeObserver(() => plot?.setSize({ width: width(), height: height() })).observe(box);
  document.addEventListener("ark:themed", () => plot && draw());
  if (box.hasAttribute("data-live")) {
    setInterval(() => {
      const isOpen = document.querySelector("#event-now[hx-trigger*='every']") !== null;
      if (!document.hidden && isOpen) load();
    }, REFRESH_MS);
  }
}
