// The form of an own rule: what a metric offers, the chart of the last day with thresholds, and the way to a fault.
import { axisLook, clock, colours, faded } from "../charts.js";

const HEIGHT = 220;
const DOT = 4;
const SEEN = 4; // a threshold further away than this many times the curve would press the curve flat
const form = document.getElementById("own-rule");
const metrics = JSON.parse(document.getElementById("rule-metrics")?.textContent ?? "{}");
const words = JSON.parse(document.getElementById("rule-words")?.textContent ?? "{}");
const short = new Intl.NumberFormat(document.documentElement.lang || "en", { notation: "compact", maximumFractionDigits: 2 });
let plot = null;

// --- what the chosen metric can be asked for ----------------------------------------------------------------------------
function narrow(select, wanted) {
  for (const option of select.options) {
    const fits = !option.value || !wanted || wanted.includes(option.value);
    option.hidden = option.disabled = !fits && !option.selected;
  }
}

function offer({ isChosen = false } = {}) {
  const chosen = metrics[form.elements.metric.value];
  const aggregation = form.elements.aggregation;
  if (chosen && !chosen.aggregations.includes(aggregation.value)) aggregation.value = chosen.aggregations[0];
  narrow(aggregation, chosen?.aggregations);
  for (const select of form.querySelectorAll("[name=filter_label]")) narrow(select, chosen?.labels);
  for (const box of form.querySelectorAll("[name=by]")) {
    box.closest("label").hidden = Boolean(chosen) && !chosen.labels.includes(box.value) && !box.checked;
  }
  if (isChosen && chosen && !form.elements.unit.value) form.elements.unit.value = chosen.unit[0];
}

// --- the chart ----------------------------------------------------------------------------------------------------------
function reach({ series, thresholds }) {
  let low = 0;
  let high = 0;
  for (const { values } of series) {
    for (const value of values) {
      if (value > high) high = value;
      if (value < low) low = value;
    }
  }
  const span = Math.max(high, -low);
  for (const { value } of thresholds) {
    if (span === 0 || Math.abs(value) <= span * SEEN) [low, high] = [Math.min(low, value), Math.max(high, value)];
  }
  return [low * 1.08, high * 1.08 || 1];
}

// Of a day, a few minutes are narrower than a line is thick: where there is no more, a dot is seen.
function lonely(chart, index) {
  const [times, column] = [chart.data[0], chart.data[index]];
  const is = (at) => column[at] !== null && column[at] !== undefined;
  const found = [];
  let first = null;
  for (let at = 0; at < column.length; at += 1) {
    if (!is(at)) continue;
    if (!is(at - 1)) first = at;
    if (!is(at + 1) && chart.valToPos(times[at], "x") - chart.valToPos(times[first], "x") < DOT) found.push(at);
  }
  return found.length ? found : null;
}

function drawOver(chart, told, looks) {
  const { ctx, bbox } = chart;
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.fillStyle = faded(looks.bad, 0.14);
  for (const [from, to] of told.fired) {
    const left = chart.valToPos(from, "x", true);
    ctx.fillRect(left, bbox.top, Math.max(2 * ratio, chart.valToPos(to, "x", true) - left), bbox.height);
  }
  ctx.strokeStyle = ctx.fillStyle = looks.bad;
  ctx.setLineDash([6 * ratio, 4 * ratio]);
  ctx.lineWidth = ratio;
  ctx.font = `${11 * ratio}px ${getComputedStyle(document.body).fontFamily}`;
  ctx.textAlign = "left";
  ctx.textBaseline = "bottom";
  for (const { level, value } of told.thresholds) {
    const y = chart.valToPos(value, "y", true);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.fillText(level, bbox.left + 4 * ratio, y - 3 * ratio);
  }
  ctx.restore();
}

function draw() {
  const box = document.getElementById("rule-chart");
  const data = document.getElementById("rule-chart-data");
  plot?.destroy();
  plot = null;
  if (!box || !data || !window.uPlot) return;
  const told = JSON.parse(data.textContent);
  const [border, hint, accent, bad] = colours(box, ["--ark-border", "--ark-hint", "--ark-accent-text", "--ark-bad"]);
  const at = clock(told.zone, { hour: "2-digit", minute: "2-digit" });
  const look = axisLook(box, () => ({ border, hint }));
  const figure = (value) => (value === null || value === undefined ? "–" : `${Number(value.toPrecision(4))}${told.unit && ` ${told.unit}`}`);
  const one = told.series.length === 1;
  plot = new uPlot(
    {
      width: Math.max(box.clientWidth, 240),
      height: HEIGHT,
      legend: { show: one },
      cursor: { drag: { x: false, y: false }, y: false },
      scales: { x: { time: true }, y: { range: () => reach(told) } },
      axes: [
        { ...look, space: 60, size: 28, values: (_plot, values) => values.map(at) },
        { ...look, size: 56, values: (_plot, values) => values.map((value) => short.format(value)) },
      ],
      series: [
        { label: words.time ?? "", value: (_plot, value) => at(value) },
        ...told.series.map(({ label }) => ({
          label: label || "value", stroke: one ? accent : faded(accent, 0.7), width: 1.5, points: { filter: lonely, size: DOT },
          value: (_plot, value) => figure(value),
        })),
      ],
      hooks: { draw: [(chart) => drawOver(chart, told, { bad })] },
    },
    [told.time, ...told.series.map(({ values }) => values)],
    box,
  );
}

// --- the place of a fault -----------------------------------------------------------------------------------------------
function goTo(line, column) {
  const area = form.elements.promql;
  const lines = area.value.split("\n");
  const from = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0) + column - 1;
  area.focus();
  area.setSelectionRange(from, Math.min(from + 1, area.value.length));
}

if (form) {
  offer();
  draw();
  form.elements.metric.addEventListener("change", () => offer({ isChosen: true }));
  form.addEventListener("click", (event) => {
    const preview = event.target.closest("[data-goto]")?.closest("[data-line]");
    if (preview) goTo(Number(preview.dataset.line), Number(preview.dataset.column));
  });
  document.body.addEventListener("htmx:afterSettle", draw);
  document.addEventListener("ark:themed", draw);
  new ResizeObserver(() => {
    const box = document.getElementById("rule-chart");
    if (plot && box) plot.setSize({ width: Math.max(box.clientWidth, 240), height: HEIGHT });
  }).observe(form);
}
