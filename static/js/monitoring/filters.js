// What is looked at, and the address that says the same: a link shows the same picture, "back" goes to the one before.
const NAMES = ["range", "from", "to", "api", "model", "version", "compare", "auto"];

export function read(search = location.search) {
  const query = new URLSearchParams(search);
  const filters = {};
  for (const name of NAMES) if (query.get(name)) filters[name] = query.get(name);
  if (!(filters.from && filters.to)) {
    delete filters.from;
    delete filters.to;
  }
  return filters;
}

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
  const filters = {};
  for (const [name, value] of new FormData(form)) {
    if (NAMES.includes(name) && value && value !== form.dataset[name]) filters[name] = value;
  }
  // Another range is another picture; all else is asked of the same time.
  if (isFixed(before) && filters.range === before.range) Object.assign(filters, { from: before.from, to: before.to });
  return filters;
}

export function toForm(form, filters) {
  for (const field of form.elements) {
    if (!NAMES.includes(field.name)) continue;
    if (field.type === "checkbox") field.checked = filters[field.name] === field.value;
    else field.value = filters[field.name] ?? form.dataset[field.name] ?? "";
  }
}
