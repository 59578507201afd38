// Figures as people read them (1.2 M, in Chinese 120 万), and exactly; by what is measured, not by the unit's words.
import { units } from "./words.js";

const NOTHING = "–";
const grouped = (value, digits) => value.toLocaleString("en-US", { maximumFractionDigits: digits });

// Below ten thousand as it is, above in two or three figures with the language's unit: common.templatetags.ark.readable.
function large(value) {
  const size = Math.abs(value);
  if (size < 10_000) return grouped(value, size < 10 ? 2 : size < 100 ? 1 : 0);
  for (let at = 0; at < units.length; at += 1) {
    const [unit, name] = units[at];
    const scaled = value / unit;
    const digits = Math.abs(scaled) >= 100 ? 0 : 1;
    const rounded = Number(scaled.toFixed(digits));
    if (at === units.length - 1 || Math.abs(rounded) * unit < units[at + 1][0]) return `${grouped(rounded, digits)} ${name}`;
  }
  return grouped(value, 0);
}

function seconds(value) {
  if (value === 0) return "0 s";
  if (value < 1) return `${Number((value * 1000).toPrecision(3))} ms`;
  return `${value < 100 ? Number(value.toFixed(2)) : Math.round(value)} s`;
}

const READABLE = {
  seconds,
  percent: (value) => `${Number(value.toFixed(value < 10 ? 2 : 1))} %`,
  money: (value) => grouped(value, value < 1 ? 4 : 2),
};
const EXACT = {
  seconds: (value) => `${grouped(value, 4)} s`,
  percent: (value) => `${grouped(value, 3)} %`,
  money: (value) => grouped(value, 6),
};

const isNothing = (value) => value === null || value === undefined;

export const readable = (value, measure) => (isNothing(value) ? NOTHING : (READABLE[measure] ?? large)(value));
export const exact = (value, measure) => (isNothing(value) ? NOTHING : (EXACT[measure] ?? ((each) => grouped(each, Math.abs(each) >= 1000 ? 1 : 3)))(value));

// The labels of an axis, all in one unit.
export function ticks(values, measure) {
  if (measure !== "seconds") return values.map((value) => readable(value, measure));
  const inMilliseconds = Math.max(...values) <= 1;
  return values.map((value) => (inMilliseconds ? `${grouped(value * 1000, 2)} ms` : `${grouped(value, 2)} s`));
}
