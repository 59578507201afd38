// Times in the reader's zone, on axes, in tables and in the fields of the own range.
import { clock } from "../charts.js";
import { zone } from "./words.js";

const day = { month: "2-digit", day: "2-digit" };
const minute = { hour: "2-digit", minute: "2-digit" };
const second = { ...minute, second: "2-digit" };

export const full = clock(zone, { year: "numeric", ...day, ...second });
export const short = clock(zone, { ...day, ...minute });
const dates = clock(zone, day);
const minutes = clock(zone, minute);
const seconds = clock(zone, second);

// "11-22 20:16 – 20:25", with both days where they differ.
export function between(from, to) {
  const [start, end] = [short(from), short(to)];
  return `${start} – ${start.slice(0, 5) === end.slice(0, 5) ? end.slice(6) : end}`;
}

// Labels of a time axis: the date where a day begins, the time of day elsewhere.
export function axis(_plot, values, _index, _space, step) {
  return values.map((value) => {
    if (value === null) return "";
    const time = step < 60 ? seconds(value) : minutes(value);
    return step >= 86_400 || /^00:00(:00)?$/.test(time) ? dates(value) : time;
  });
}

// Splits that fall on whole hours and midnights of the reader's zone.
export const inZone = (epoch) => (zone ? uPlot.tzDate(new Date(epoch * 1000), zone) : new Date(epoch * 1000));

function offsetAt(epoch) {
  const [date, time] = full(epoch).split(" ");
  return Date.parse(`${date}T${time}Z`) / 1000 - Math.floor(epoch);
}

// What a datetime-local field shows and gives, for the reader's zone instead of the browser's.
export const toField = (epoch) => full(epoch).replace(" ", "T").slice(0, 16);
export function fromField(text) {
  const wall = Date.parse(`${text.length === 16 ? `${text}:00` : text}Z`) / 1000;
  if (Number.isNaN(wall)) return null;
  const guess = wall - offsetAt(wall);
  return wall - offsetAt(guess); // twice: the first offset is of another moment, across a change of the clocks
}
