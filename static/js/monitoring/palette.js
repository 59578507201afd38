// The colours of the theme as a canvas takes them; read once per theme.
import { colours, faded } from "../charts.js";

const SERIES = 8;
const NAMED = {
  border: "--ark-border", hint: "--ark-hint", limit: "--ark-bad", surface: "--ark-surface",
  status: "--ark-warn", server: "--ark-warn", switch: "--ark-accent-text", edit: "--ark-control-border", alert: "--ark-bad",
};
let known = null;

export function palette() {
  if (known) return known;
  const names = Array.from({ length: SERIES }, (_each, index) => `--mon-${index + 1}`);
  const resolved = colours(document.body, [...names, ...Object.values(NAMED)]);
  const series = resolved.slice(0, SERIES);
  const named = Object.fromEntries(Object.keys(NAMED).map((name, at) => [name, resolved[SERIES + at]]));
  known = {
    ...named, series, area: faded(series[0], 0.1), before: series.map((each) => faded(each, 0.55)), marks: named,
  };
  return known;
}

export const forget = () => (known = null);

// Which colour a series has: its place; a dashed one that of the series it belongs to, else the limit's.
export function toneOf(series, each) {
  if (!each.dash) return (series.filter((other) => !other.dash).indexOf(each) % SERIES) + 1;
  const name = each.key.split(":").slice(1).join(":"); // keys of lines by a label: "wanted:doubao-seed-251015"
  const partner = name && series.find((other) => !other.dash && other.key.endsWith(`:${name}`));
  return partner ? toneOf(series, partner) : 0;
}
