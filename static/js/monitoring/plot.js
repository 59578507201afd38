// One panel's drawing by uPlot: lines, areas, stacked bars, dashed limits, the period before, and the marks.
import { axisLook } from "../charts.js";
import { ticks } from "./figures.js";
import { palette, toneOf } from "./palette.js";
import * as times from "./times.js";

const SYNC = "monitoring";
const LIMIT_SEEN = 3; // a limit further away than this many times the curve would press the curve flat
const DASH = [5, 4];
let dragged = null; // the plot a drag began on: the others show the same selection, one of them says so

// What uPlot draws for the series of an answer, in drawing order; stacked bars are drawn from the whole down.
function layers(kind, series) {
  const bars = kind === "bars" ? series.filter((each) => !each.dash) : [];
  const others = series.filter((each) => !bars.includes(each));
  const before = bars.some((each) => each.previous) ? [{ role: "total before" }] : [];
  return [
    ...before,
    ...bars.map((each) => ({ role: "bar", of: each })),
    ...others.filter((each) => each.previous && !each.dash).map((each) => ({ role: "before", of: each })),
    ...others.map((each) => ({ role: each.dash ? "limit" : "line", of: each })),
  ];
}

const isNumber = (value) => value !== null && value !== undefined;

function summed(columns, length) {
  const total = new Array(length).fill(null);
  for (const column of columns) {
    for (let at = 0; at < length; at += 1) if (isNumber(column[at])) total[at] = (total[at] ?? 0) + column[at];
  }
  return total;
}

function highest(column) {
  let top = 0;
  for (const value of column) if (value > top) top = value;
  return top;
}

// Points beside which there is nothing would not be seen as a line.
function lonely(plot, index) {
  const column = plot.data[index];
  const found = [];
  for (let at = 0; at < column.length; at += 1) {
    if (isNumber(column[at]) && !isNumber(column[at - 1]) && !isNumber(column[at + 1])) found.push(at);
  }
  return found.length ? found : null;
}

export class Plot {
  // `box`: where to draw; `size()` gives {width, height}; hooks: onCursor(index | null), onZoom(from, to), onZoomOut().
  constructor(box, { kind, measure, size, hooks }) {
    Object.assign(this, { box, kind, measure, size, hooks });
    this.hidden = new Set();
    this.marks = [];
  }

  // `answer`: {time, from, until}, `series` as in the data contract. Draws into what is there when the series are the same.
  show(answer, series) {
    // The axis goes on to where the range ends: with long steps the newest point may be hours before it, and marks are not.
    Object.assign(this, { time: answer.time, from: answer.from, to: answer.until ?? answer.to, step: answer.step, series });
    this.layers = layers(this.kind, series);
    const shape = this.layers.map((layer) => `${layer.role} ${layer.of?.key ?? ""}`).join("\n");
    const data = this.#data();
    if (this.uplot && shape === this.shape) {
      this.uplot.setData(data);
      return;
    }
    this.shape = shape;
    this.uplot?.destroy();
    this.uplot = new uPlot(this.#options(), data, this.box);
    this.uplot.over.addEventListener("mouseenter", () => this.hooks.onEnter(true));
    this.uplot.over.addEventListener("mouseleave", () => this.hooks.onEnter(false));
    this.uplot.over.addEventListener("mousedown", () => (dragged = this));
  }

  clear() {
    this.uplot?.destroy();
    this.uplot = null;
    this.shape = null;
  }

  toggle(key) {
    if (!this.hidden.delete(key)) this.hidden.add(key);
    if (!this.uplot) return;
    this.uplot.batch(() => {
      this.layers.forEach((layer, at) => {
        if (layer.of) this.uplot.setSeries(at + 1, { show: !this.hidden.has(layer.of.key) });
      });
      this.uplot.setData(this.#data());
    });
  }

  // Whether they are other ones than before.
  setMarks(marks) {
    const text = JSON.stringify(marks);
    const isNew = text !== this.marksText;
    Object.assign(this, { marks, marksText: text });
    return isNew;
  }

  redraw() {
    this.uplot?.redraw(false);
  }

  resize() {
    this.uplot?.setSize(this.size());
  }

  // The marks within a few pixels of the cursor.
  marksNear(left) {
    if (!this.uplot) return [];
    return this.marks.filter((mark) => Math.abs(this.uplot.valToPos(mark.at, "x") - left) <= 5);
  }

  #isShown(layer) {
    return !layer.of || !this.hidden.has(layer.of.key);
  }

  #data() {
    const length = this.time.length;
    const bars = this.layers.filter((layer) => layer.role === "bar" && this.#isShown(layer)).map((layer) => layer.of);
    let top = 0;
    let limit = 0;
    const columns = this.layers.map((layer) => {
      let column;
      if (layer.role === "total before") column = summed(bars.map((each) => each.previous ?? []), length);
      else if (layer.role === "bar") {
        const place = bars.indexOf(layer.of);
        column = place < 0 ? new Array(length).fill(null) : summed(bars.slice(place).map((each) => each.values), length);
      } else column = layer.role === "before" ? layer.of.previous : layer.of.values;
      if (this.#isShown(layer)) {
        if (layer.role === "limit") limit = Math.max(limit, highest(column));
        else top = Math.max(top, highest(column));
      }
      return column;
    });
    this.isLimitSeen = limit > 0 && (top === 0 || limit <= top * LIMIT_SEEN);
    if (this.isLimitSeen) top = Math.max(top, limit);
    this.top = top;
    return [this.time, ...columns];
  }

  #ceiling() {
    if (this.top === 0) return 1;
    if (this.measure !== "percent") return this.top * 1.08;
    return this.top <= 100 ? Math.min(100, Math.max(this.top * 1.08, 1)) : this.top * 1.08;
  }

  #options() {
    const look = axisLook(this.box, palette);
    return {
      ...this.size(),
      legend: { show: false },
      padding: [10, 8, 0, 0],
      tzDate: times.inZone,
      scales: {
        x: { time: true, range: () => [this.from, Math.max(this.to, this.from + 1)] },
        y: { range: () => [0, this.#ceiling()] },
      },
      axes: [
        { ...look, space: 70, size: 28, gap: 4, values: times.axis },
        {
          ...look, space: 36, gap: 4, ticks: { show: false }, values: (_plot, values) => ticks(values, this.measure),
          size: (plot, labels) => this.#axisWidth(plot, labels),
        },
      ],
      series: [{}, ...this.layers.map((layer, at) => this.#series(layer, at))],
      cursor: {
        sync: { key: SYNC, setSeries: false, scales: ["x", null] },
        y: false,
        drag: { x: true, y: false, setScale: false, dist: 6 },
        focus: { prox: -1 },
        points: { size: 7, width: 1.5, fill: (plot, at) => this.#colour(this.layers[at - 1]), stroke: () => palette().surface },
        bind: { dblclick: () => () => this.hooks.onZoomOut() },
      },
      hooks: {
        draw: [(plot) => this.#drawMarks(plot)],
        setCursor: [(plot) => this.hooks.onCursor(plot.cursor.idx ?? null, plot.cursor.left)],
        setSelect: [(plot) => this.#selected(plot)],
      },
    };
  }

  #axisWidth(plot, labels) {
    if (!labels) return 44;
    plot.ctx.save();
    plot.ctx.font = plot.axes[1].font[0];
    const widest = Math.max(...labels.map((label) => plot.ctx.measureText(label ?? "").width));
    plot.ctx.restore();
    return Math.max(44, Math.ceil(widest / devicePixelRatio) + 12);
  }

  #colour(layer) {
    if (!layer?.of) return palette().hint;
    const tone = toneOf(this.series, layer.of);
    if (!tone) return palette().limit;
    return (layer.role === "before" ? palette().before : palette().series)[tone - 1];
  }

  // Colours are asked for by place: the next answer brings other objects of the same shape.
  #series(layer, at) {
    const stroke = () => this.#colour(this.layers[at]);
    const shared = {
      show: this.#isShown(layer), stroke, width: 1.5, spanGaps: false,
      points: { show: false, filter: (plot, index) => lonely(plot, index), size: 4, fill: stroke },
    };
    if (layer.role === "bar") {
      return { ...shared, fill: stroke, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.8, 40], align: -1 }) };
    }
    if (layer.role === "limit") return { ...shared, dash: [8, 5], width: 1.25, points: { show: false } };
    if (layer.role !== "line") return { ...shared, dash: DASH, width: 1.25 };
    // One area at most: several over one another only turn grey.
    return this.kind === "area" && layer.of === this.series[0] ? { ...shared, fill: () => palette().area } : shared;
  }

  #drawMarks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const mark of this.marks) {
      if (mark.at < this.from || mark.at > this.to) continue;
      const left = Math.round(plot.valToPos(mark.at, "x", true)) + 0.5;
      const side = 4 * devicePixelRatio;
      ctx.strokeStyle = ctx.fillStyle = palette().marks[mark.kind] ?? palette().hint;
      ctx.beginPath();
      ctx.moveTo(left, bbox.top);
      ctx.lineTo(left, bbox.top + bbox.height);
      ctx.stroke();
      ctx.beginPath();
      ctx.moveTo(left - side, bbox.top - side);
      ctx.lineTo(left + side, bbox.top - side);
      ctx.lineTo(left, bbox.top + side / 2);
      ctx.fill();
    }
    ctx.restore();
  }

  #selected(plot) {
    const { left, width } = plot.select;
    if (width < 2) return;
    const from = plot.posToVal(left, "x");
    const to = plot.posToVal(left + width, "x");
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    if (dragged === this) this.hooks.onZoom(from, to);
  }
}
