// What the server tells the page's scripts: addresses, the reader's zone and language, and every word they say.
const told = JSON.parse(document.getElementById("monitoring-words")?.textContent ?? "{}");

export const zone = told.zone ?? "";
export const words = told.words ?? {};
export const units = told.units ?? [];
export const keepSeconds = told.keep_seconds ?? 15 * 86_400;
export const leastSeconds = told.least_seconds ?? 60;

// A sentence with its figures filled in: say("since", {time: "14:02"}) of "No data since %(time)s".
export const say = (name, values = {}) => (words[name] ?? "").replace(/%\((\w+)\)s/g, (_all, key) => values[key] ?? "");
