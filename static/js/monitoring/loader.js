// One question per group of panels: what is near the screen first, at most two at a time, none that nobody waits for.
import { toQuery } from "./filters.js";

const AT_ONCE = 2;
const BUSY_TRIES = 4;
const BUSY_MS = 1200;

export class Loader {
  // `groups`: objects with `element` and `address`; `onAnswer(group, answer, filters)`; `onLoading(group, isQuiet)`.
  constructor(groups, { width, onLoading, onAnswer }) {
    this.groups = groups;
    this.hooks = { width, onLoading, onAnswer };
    this.running = new Map();
    this.watcher = new IntersectionObserver((entries) => this.#seen(entries), { rootMargin: "300px 0px" });
    for (const group of groups) {
      Object.assign(group, { isNear: false, isStale: true, isQuiet: false, tries: 0 });
      this.watcher.observe(group.element);
    }
  }

  // Everything is asked anew; what runs is dropped. Quietly: what is drawn stays as it is until the answer comes.
  reload(filters, { isQuiet = false } = {}) {
    this.filters = filters;
    for (const stop of this.running.values()) stop.abort();
    this.running.clear();
    for (const group of this.groups) {
      Object.assign(group, { isStale: true, isQuiet, tries: 0 });
      clearTimeout(group.again);
    }
    this.#pump();
  }

  retry(group) {
    Object.assign(group, { isStale: true, isQuiet: false, tries: 0 });
    this.#pump();
  }

  get isIdle() {
    return this.running.size === 0 && !this.groups.some((group) => group.isNear && group.isStale);
  }

  #seen(entries) {
    for (const entry of entries) {
      const group = this.groups.find((each) => each.element === entry.target);
      group.isNear = entry.isIntersecting;
    }
    if (this.filters) this.#pump();
  }

  #pump() {
    for (const group of this.groups) {
      if (this.running.size >= AT_ONCE) return;
      if (group.isNear && group.isStale && !this.running.has(group)) this.#ask(group);
    }
  }

  async #ask(group) {
    const stop = new AbortController();
    const filters = this.filters;
    this.running.set(group, stop);
    group.isStale = false;
    this.hooks.onLoading(group, group.isQuiet);
    const answer = await ask(`${group.address}?${toQuery(filters, { width: this.hooks.width() })}`, stop.signal);
    if (stop.signal.aborted) return;
    this.running.delete(group);
    if (answer.state === "busy" && group.tries < BUSY_TRIES) {
      group.tries += 1;
      group.again = setTimeout(() => {
        group.isStale = true;
        this.#pump();
      }, BUSY_MS * (0.7 + 0.6 * Math.random()));
    } else {
      this.hooks.onAnswer(group, answer, filters);
    }
    this.#pump();
  }
}

// The answer of an address, or one of our own: {state: "away"} without the console, {state: "refused", status}.
export async function ask(address, signal) {
  try {
    const answer = await fetch(address, { headers: { Accept: "application/json" }, signal });
    const isJson = answer.headers.get("Content-Type")?.startsWith("application/json");
    if (answer.redirected && !isJson) location.reload(); // signed out meanwhile: the page asks to sign in
    const told = isJson ? await answer.json() : {};
    return answer.ok && isJson ? told : { state: "refused", status: answer.status, message: told.message };
  } catch {
    return { state: "away" };
  }
}
