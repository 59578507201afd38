// What is looked at, and the address that says the same: a link shows the same picture, "back" goes to the one before.
import { between, fromField } from "./times.js";

const OWN = "own"; // the choice among the ranges that stands for from and to
const NAMES = ["range", "from", "to", "step", "api", "model", "version", "compare", "auto"];

export function read(search = location.search) {
  const query = new URLSearchParams(search);
  const filters = {};
  for (const name of NAMES) if (query.get(name)) filters[name] = query.get(name);
  if (filters.compare) filters.compare = "1";
  if (filters.from) {
    const [from, to] = [moment(filters.from), filters.to ? moment(filters.to) : Math.floor(Date.now() / 1000)];
    if (from !== null && to !== null && from < to) return { ...filters, from: String(from), to: String(to) };
  }
  return unfixed(filters);
}

// Without an own range, and without the step that goes with it.
export function unfixed(filters) {
  const { from: _from, to: _to, step: _step, ...others } = filters;
  return others;
}

// Epoch seconds, or a time as forms send it; null when it is neither.
const moment = (text) => (/^\d+$/.test(text) ? Number(text) : fromField(text));

export function toQuery(filters, more = {}) {
  const query = new URLSearchParams();
  for (const name of NAMES) if (filters[name]) query.set(name, filters[name]);
  for (const [name, value] of Object.entries(more)) query.set(name, value);
  return query.toString();
}

export const isFixed = (filters) => Boolean(filters.from && filters.to);

export const toAddress = (filters) => {
  const query = toQuery(filters);
  return query ? `${location.pathname}?${query}` : location.pathname;
};

export function remember(filters, { isNew }) {
  const address = toAddress(filters);
  if (address === location.pathname + location.search) return;
  history[isNew ? "pushState" : "replaceState"](null, "", address);
}

// The form and the filters say the same.
export function fromForm(form, before) {
  const isFixedKept = form.elements.range.value === OWN;
  const filters = {};
  for (const [name, value] of new FormData(form)) {
    if (NAMES.includes(name) && value && value !== OWN && value !== form.dataset[name]) filters[name] = value;
  }
  if (isFixedKept) {
    for (const name of ["range", "from", "to", "step"]) if (before[name]) filters[name] = before[name];
  }
  return filters;
}

export function toForm(form, filters) {
  const own = form.querySelector(`option[value=${OWN}]`);
  own.hidden = own.disabled = !isFixed(filters);
  if (isFixed(filters)) own.textContent = between(Number(filters.from), Number(filters.to));
  for (const field of form.elements) {
    if (!NAMES.includes(field.name)) continue;
    if (field.type === "checkbox") field.checked = filters[field.name] === field.value;
    else if (field.name === "range" && isFixed(filters)) field.value = OWN;
    else {
      const usual = form.dataset[field.name] ?? "";
      field.value = filters[field.name] ?? usual;
      if (field.value !== (filters[field.name] ?? usual)) {
        // Nothing that can be chosen: the server took the usual for it as well.
        delete filters[field.name];
        field.value = usual;
      }
    }
  }
}
