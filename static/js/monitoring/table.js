// The figures of a panel as a real table: for people who cannot see a chart, and for whoever wants the numbers.
import { make } from "./dom.js";
import { exact } from "./figures.js";
import * as times from "./times.js";
import { say, words } from "./words.js";

// Newest first. The same points as the chart and the CSV.
export function table({ title, unit, measure, time, series }) {
  const columns = series.flatMap((each) => [
    { label: each.label, values: each.values },
    ...(each.previous ? [{ label: say("column_before", { label: each.label }), values: each.previous }] : []),
  ]);
  const head = make("tr", {},
    make("th", { scope: "col", text: words.time }),
    ...columns.map(({ label }) => make("th", { scope: "col", className: "num", text: label })));
  const body = make("tbody");
  for (let at = time.length - 1; at >= 0; at -= 1) {
    body.append(make("tr", {},
      make("td", { text: times.full(time[at]) }),
      ...columns.map(({ values }) => make("td", { className: "num", text: exact(values[at], measure) }))));
  }
  return make("table", { className: "mon-table" },
    make("caption", { className: "ark-sr", text: unit ? `${title} (${unit})` : title }), make("thead", {}, head), body);
}
