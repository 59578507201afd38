// The own range: two times in the reader's zone, checked with a sentence before anything is asked.
import * as times from "./times.js";
import { keepSeconds, leastSeconds, words } from "./words.js";

// Two epoch seconds that can be asked for: at least a minute wide, within what is kept, not ahead of now.
export function within(from, to, now = Date.now() / 1000) {
  const oldest = Math.ceil(now - keepSeconds) + 60;
  let [start, end] = [Math.floor(from), Math.ceil(to)];
  if (end - start < leastSeconds) {
    const middle = (start + end) / 2;
    [start, end] = [Math.floor(middle - leastSeconds / 2), Math.ceil(middle + leastSeconds / 2)];
  }
  if (end > now) [start, end] = [Math.min(start, Math.floor(now) - leastSeconds), Math.floor(now)];
  return [Math.max(start, oldest), Math.max(end, oldest + leastSeconds)];
}

export class OwnRange {
  constructor(dialog, onChosen) {
    this.dialog = dialog;
    this.form = dialog.querySelector("form");
    this.trouble = dialog.querySelector("[data-part=trouble]");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      const [from, to] = [this.form.elements.from, this.form.elements.to].map((field) => times.fromField(field.value));
      const trouble = this.#trouble(from, to);
      this.#say(trouble);
      if (trouble) return;
      dialog.close();
      onChosen(from, to);
    });
  }

  open(from, to) {
    this.#say("");
    this.form.elements.from.value = times.toField(from);
    this.form.elements.to.value = times.toField(to);
    this.dialog.showModal();
    this.form.elements.from.focus();
  }

  #say(trouble) {
    this.trouble.textContent = trouble;
    this.trouble.hidden = !trouble;
    for (const field of [this.form.elements.from, this.form.elements.to]) field.classList.toggle("is-invalid", Boolean(trouble));
  }

  #trouble(from, to) {
    const now = Date.now() / 1000;
    if (from === null || to === null) return words.range_missing;
    if (to - from < 0) return words.range_turned;
    if (to - from < leastSeconds) return words.range_short;
    if (from > now) return words.range_ahead;
    if (from < now - keepSeconds) return words.range_old;
    return "";
  }
}
