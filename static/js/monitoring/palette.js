// The colours of the theme as a canvas takes them; read once per theme.
import { colour, faded } from "../charts.js";

export const SERIES = 8;
let colours = null;

export function palette() {
  if (colours) return colours;
  const body = document.body;
  const series = Array.from({ length: SERIES }, (_each, index) => colour(body, `--mon-${index + 1}`));
  colours = {
    series,
    fills: series.map((each) => faded(each, 0.1)),
    before: series.map((each) => faded(each, 0.55)),
    border: colour(body, "--ark-border"),
    hint: colour(body, "--ark-hint"),
    limit: colour(body, "--ark-bad"),
    surface: colour(body, "--ark-surface"),
    marks: {
      status: colour(body, "--ark-warn"), switch: colour(body, "--ark-accent-text"),
      edit: colour(body, "--ark-control-border"), alert: colour(body, "--ark-bad"),
    },
  };
  return colours;
}

export const forget = () => (colours = null);

// Which colour a series has: its place; a dashed one that of the series it belongs to, else the limit's.
export function toneOf(series, each) {
  if (!each.dash) return (series.filter((other) => !other.dash).indexOf(each) % SERIES) + 1;
  const name = each.key.split(":").slice(1).join(":"); // keys of lines by a label: "wanted:doubao-seed-251015"
  const partner = name && series.find((other) => !other.dash && other.key.endsWith(`:${name}`));
  return partner ? toneOf(series, partner) : 0;
}
