// Completion for a PromQL text: metrics, functions, and within braces the metric's labels. The form works without it.

const MOST = 12;
const area = document.getElementById("id_promql");
const told = (id) => JSON.parse(document.getElementById(id)?.textContent ?? "null");
const known = told("promql-completion");
const words = told("rule-words") ?? {};

// What is being typed at `at`: the word's beginning and text, and the metric whose braces it stands in.
function typed(text, at) {
  const before = text.slice(0, at);
  const word = before.match(/[A-Za-z_:][A-Za-z0-9_:]*$/)?.[0] ?? "";
  const open = before.lastIndexOf("{");
  const inside = open > before.lastIndexOf("}");
  // Within quotes stands a value, which nobody can complete.
  const rest = inside ? before.slice(open) : before;
  const quoted = (rest.match(/"/g)?.length ?? 0) % 2 === 1;
  const metric = inside ? before.slice(0, open).match(/([A-Za-z_:][A-Za-z0-9_:]*)\s*$/)?.[1] ?? "" : "";
  return { word, from: at - word.length, inside, metric, quoted };
}

function offers({ word, inside, metric }) {
  const wanted = word.toLowerCase();
  let all;
  if (inside) {
    const labels = known.metrics.find((each) => each.name === metric)?.labels ?? known.labels;
    all = labels.map((name) => ({ name, note: "" }));
  } else {
    all = [
      ...known.metrics.map(({ name, help }) => ({ name, note: help })),
      ...[...known.functions, ...known.aggregations].map((name) => ({ name, note: "", after: "(" })),
      ...[...known.keywords, ...known.labels].map((name) => ({ name, note: "" })),
    ];
  }
  const fits = all.filter(({ name }) => name.toLowerCase().includes(wanted) && name !== word);
  const rank = ({ name }) => (name.toLowerCase().startsWith(wanted) ? 0 : 1);
  return fits.map((each, at) => ({ ...each, at })).sort((one, other) => rank(one) - rank(other) || one.at - other.at).slice(0, MOST);
}

class Completion {
  constructor() {
    this.found = [];
    this.at = 0;
    this.list = document.createElement("ul");
    this.list.className = "ar-list";
    this.list.id = "promql-list";
    this.list.setAttribute("role", "listbox");
    this.list.setAttribute("aria-label", area.labels[0]?.textContent.trim() ?? "PromQL");
    this.list.hidden = true;
    this.voice = document.createElement("span");
    this.voice.className = "ark-sr";
    this.voice.setAttribute("role", "status");
    const place = document.createElement("div");
    place.className = "ar-complete";
    place.append(this.list, this.voice);
    area.after(place);
    area.setAttribute("aria-autocomplete", "list");
    area.setAttribute("aria-controls", this.list.id);
    area.addEventListener("input", () => this.look());
    area.addEventListener("keydown", (event) => this.key(event));
    area.addEventListener("blur", () => this.close());
    area.addEventListener("click", () => this.close());
    // The text keeps its focus while one is chosen by pointer.
    this.list.addEventListener("pointerdown", (event) => event.preventDefault());
    this.list.addEventListener("click", (event) => {
      const item = event.target.closest("li");
      if (item) this.take(Number(item.dataset.at));
    });
  }

  look({ always = false } = {}) {
    const here = typed(area.value, area.selectionStart);
    const wanted = !here.quoted && (always || here.word.length > 0);
    this.found = wanted ? offers(here) : [];
    if (!this.found.length) {
      this.close();
      if (always) this.voice.textContent = words.none ?? "";
      return;
    }
    this.from = here.from;
    this.at = 0;
    this.list.replaceChildren(...this.found.map((each, at) => this.item(each, at)));
    this.list.hidden = false;
    this.voice.textContent = (words.some ?? "").replace("%(n)s", this.found.length);
    this.mark();
  }

  item({ name, note }, at) {
    const item = document.createElement("li");
    item.id = `promql-option-${at}`;
    item.dataset.at = at;
    item.setAttribute("role", "option");
    const [left, right] = [document.createElement("span"), document.createElement("span")];
    left.textContent = name;
    right.textContent = note;
    item.append(left, right);
    return item;
  }

  mark() {
    [...this.list.children].forEach((item, at) => item.setAttribute("aria-selected", String(at === this.at)));
    const chosen = this.list.children[this.at];
    chosen?.scrollIntoView({ block: "nearest" });
    area.setAttribute("aria-activedescendant", chosen?.id ?? "");
  }

  take(at) {
    const { name, after = "" } = this.found[at];
    const end = area.selectionStart;
    const next = area.value.slice(end, end + 1);
    area.setRangeText(name + (next === after ? "" : after), this.from, end, "end");
    this.close();
    area.focus();
  }

  close() {
    this.list.hidden = true;
    this.found = [];
    area.removeAttribute("aria-activedescendant");
  }

  key(event) {
    if (event.isComposing) return;
    if (event.key === " " && event.ctrlKey) {
      event.preventDefault();
      this.look({ always: true });
    } else if (!this.found.length) {
      return;
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      this.at = (this.at + (event.key === "ArrowDown" ? 1 : -1) + this.found.length) % this.found.length;
      this.mark();
    } else if (event.key === "Enter" || event.key === "Tab") {
      event.preventDefault();
      this.take(this.at);
    } else if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      this.close();
    } else if (["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) {
      this.close();
    }
  }
}

if (area && known) new Completion();
