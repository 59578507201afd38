// One panel: title, current value, chart with its legend, the same as a table, and the queries behind it.
import { make, write } from "./dom.js";
import { exact, readable } from "./figures.js";
import { Plot } from "./plot.js";
import { toneOf } from "./palette.js";
import { table } from "./table.js";
import { Tooltip } from "./tooltip.js";
import { say, words } from "./words.js";

const tone = (series, each) => `mon-c${toneOf(series, each)}${each.dash ? " mon-dashed" : ""}`;

export class Panel {
  constructor(element, hooks) {
    const { panel, measure, unit, kind, title } = element.dataset;
    Object.assign(this, { element, id: panel, measure, unit, kind, title, hooks, isSeen: false, isTable: false });
    const part = (name) => element.querySelector(`[data-part=${name}]`);
    this.parts = {
      body: part("body"), chart: part("chart"), legend: part("legend"), table: part("table"), why: part("why"), note: part("note"),
      current: part("current"), csv: part("csv"), toTable: part("to-table"), toQueries: part("to-queries"),
    };
    this.tooltip = new Tooltip(this.parts.chart);
    this.plot = new Plot(this.parts.chart, {
      kind, measure, size: () => this.#size(),
      hooks: {
        onCursor: (index, left) => this.#cursor(index, left),
        onEnter: (isIn) => this.#entered(isIn),
        onZoom: hooks.onZoom, onZoomOut: hooks.onZoomOut,
      },
    });
    this.parts.toTable?.addEventListener("click", () => this.#showTable(!this.isTable));
    this.parts.toQueries?.addEventListener("click", () => hooks.onQueries(this));
    this.parts.chart.addEventListener("keydown", (event) => this.#key(event));
    this.parts.chart.addEventListener("blur", () => this.#entered(false));
    new ResizeObserver(() => this.width && this.plot.resize()).observe(this.parts.chart);
    new IntersectionObserver((entries) => (this.isSeen = entries.at(-1).isIntersecting)).observe(element);
  }

  get width() {
    return this.parts.chart.clientWidth;
  }

  get queries() {
    return (this.series ?? []).filter((each) => each.query);
  }

  set csvAddress(address) {
    if (this.parts.csv) this.parts.csv.href = address;
  }

  loading() {
    this.parts.body.setAttribute("aria-busy", "true");
  }

  // `found`: this panel's part of the answer; null when the whole group has none, then `why` says so.
  show(answer, found, why = "") {
    this.parts.body.removeAttribute("aria-busy");
    const series = found?.series ?? [];
    const isEmpty = !found || Boolean(found.empty) || !series.length;
    this.answer = answer;
    this.series = isEmpty ? [] : series;
    write(this.parts.current, isEmpty ? "–" : readable(found.current, this.measure));
    this.parts.current.title = isEmpty ? "" : `${exact(found.current, this.measure)} ${this.measure === "percent" ? "" : this.unit}`.trim();
    write(this.parts.note, found?.note ?? "");
    this.parts.note.hidden = !found?.note;
    write(this.parts.why, isEmpty ? found?.empty || why : "");
    this.element.classList.toggle("is-empty", isEmpty);
    if (isEmpty) {
      this.plot.clear();
      this.tooltip.hide();
      this.parts.legend.replaceChildren();
      this.keys = null;
    } else {
      this.#legend();
      this.plot.show(answer, series);
      this.#values(null);
    }
    if (this.isTable) this.#fillTable();
  }

  // What is drawn stays.
  settle() {
    this.parts.body.removeAttribute("aria-busy");
  }

  setMarks(marks) {
    this.plot.setMarks(marks);
  }

  redraw() {
    this.plot.redraw();
  }

  #size() {
    return { width: Math.max(this.parts.chart.clientWidth, 160), height: Math.max(this.parts.chart.clientHeight, 80) };
  }

  // --- legend ---------------------------------------------------------------------------------------------------------
  #legend() {
    const keys = this.series.map((each) => `${each.key} ${each.label} ${each.dash} ${each.total_text ?? ""}`).join("\n");
    if (this.keys === keys) return;
    this.keys = keys;
    this.values = this.series.map(() => make("b"));
    this.parts.legend.replaceChildren(...this.series.map((each, at) => this.#entry(each, at)));
  }

  #entry(each, at) {
    const title = each.total_text ? say("total", { value: each.total_text }) : words.toggle;
    const button = make("button", { type: "button", "aria-pressed": String(!this.plot.hidden.has(each.key)), title },
      make("i", { className: `mon-swatch ${tone(this.series, each)}` }), make("span", { text: each.label }), this.values[at]);
    button.addEventListener("click", () => {
      this.plot.toggle(each.key);
      button.setAttribute("aria-pressed", String(!this.plot.hidden.has(each.key)));
    });
    return make("li", {}, button);
  }

  // The values at the cursor, else the last ones; a limit that lies above the chart says so.
  #values(index) {
    this.series.forEach((each, at) => {
      let value = index === null ? null : each.values[index];
      if (index === null) for (let back = each.values.length - 1; back >= 0 && value === null; back -= 1) value = each.values[back];
      const isAbove = each.dash && !this.plot.isLimitSeen && value !== null;
      write(this.values[at], readable(value, this.measure) + (isAbove ? ` ${words.above}` : ""));
    });
  }

  // --- the cursor, which all charts share -----------------------------------------------------------------------------
  #cursor(index, left) {
    if (!this.series?.length || !this.isSeen || !this.plot.uplot) return;
    this.index = index;
    this.#values(index);
    if (!this.isEntered || index === null || left < 0) {
      this.tooltip.hide();
      return;
    }
    const rows = this.series.map((each) => ({
      tone: tone(this.series, each), label: each.label, value: each.values[index], before: each.previous?.[index],
    })).filter((_row, at) => !this.plot.hidden.has(this.series[at].key));
    const { uplot } = this.plot;
    this.tooltip.show({
      at: uplot.data[0][index], rows, measure: this.measure, marks: this.plot.marksNear(left),
      left: left + uplot.over.offsetLeft,
    });
  }

  #entered(isIn) {
    this.isEntered = isIn;
    if (!isIn) this.tooltip.hide();
  }

  #key(event) {
    const { uplot } = this.plot;
    if (!uplot || !["ArrowLeft", "ArrowRight", "Escape"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "Escape") {
      this.#entered(false);
      uplot.setCursor({ left: -10, top: -10 });
      return;
    }
    const last = uplot.data[0].length - 1;
    const from = this.isEntered ? (this.index ?? last) : last + 1;
    const index = Math.min(Math.max(from + (event.key === "ArrowLeft" ? -1 : 1), 0), last);
    this.isEntered = true;
    uplot.setCursor({ left: uplot.valToPos(uplot.data[0][index], "x"), top: 10 }, true, true);
    this.hooks.onSay(`${this.title}: ${this.series.map((each) => `${each.label} ${exact(each.values[index], this.measure)}`).join(", ")}`);
  }

  // --- table ----------------------------------------------------------------------------------------------------------
  #showTable(isTable) {
    this.isTable = isTable;
    this.element.classList.toggle("is-table", isTable);
    this.parts.toTable.setAttribute("aria-pressed", String(isTable));
    if (isTable) this.#fillTable();
    else this.parts.table.replaceChildren();
    this.hooks.onSay(say(isTable ? "table_shown" : "chart_shown", { title: this.title }));
  }

  #fillTable() {
    const { title, unit, measure, series } = this;
    this.parts.table.replaceChildren(...(series.length ? [table({ title, unit, measure, time: this.answer.time, series })] : []));
  }
}
