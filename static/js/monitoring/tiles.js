// The figures on top, as the ledger has them: value, sparkline, change from the period before.
import { draw, make, write } from "./dom.js";

const WIDTH = 96;
const HEIGHT = 28;

function sparkline(values) {
  const known = (values ?? []).map((value) => value ?? 0);
  if (known.length < 2) return null;
  const top = Math.max(...known) || 1;
  const points = known.map((value, at) => [(at * WIDTH) / (known.length - 1), HEIGHT - 2 - (value / top) * (HEIGHT - 4)]);
  const line = points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  return draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true", preserveAspectRatio: "none" },
    draw("path", { d: `${line}L${WIDTH} ${HEIGHT}L0 ${HEIGHT}Z`, class: "mon-spark-area" }),
    draw("path", { d: line, class: "mon-spark-line", "vector-effect": "non-scaling-stroke" }));
}

function change(found, tile) {
  const percent = found.change_percent;
  if (percent === null || percent === undefined) {
    return make("span", { className: "ark-hint", title: tile.dataset.noChange },
      make("span", { "aria-hidden": "true", text: "–" }), make("span", { className: "ark-sr", text: tile.dataset.noChange }));
  }
  const size = Math.abs(percent);
  const isSame = size < 0.05;
  const arrow = isSame ? "" : percent > 0 ? "▲ " : "▼ ";
  const better = tile.dataset.better;
  const feel = isSame || !better ? "" : (percent > 0) === (better === "up") ? " ark-good" : " ark-warn";
  const text = `${arrow}${size >= 1000 ? "> 999" : Number(size.toFixed(size < 10 ? 1 : 0))} %`;
  const sign = isSame ? "" : percent > 0 ? "+" : "−";
  return make("span", { className: `mon-change${feel}` },
    make("span", { "aria-hidden": "true", text }), make("span", { className: "ark-sr", text: `${sign}${Number(size.toFixed(1))} %` }),
    make("span", { className: "ark-hint", title: tile.dataset.againstTitle, text: ` ${tile.dataset.against}` }));
}

export function showTiles(root, tiles) {
  for (const tile of root.querySelectorAll("[data-tile]")) {
    const found = tiles?.[tile.dataset.tile];
    const value = tile.querySelector("[data-part=value]");
    write(value, found?.text ?? "–");
    value.title = found?.exact ?? "";
    write(tile.querySelector("[data-part=unit]"), found && found.value !== null ? (found.unit ?? "") : "");
    tile.querySelector("[data-part=spark]").replaceChildren(...[sparkline(found?.spark)].filter(Boolean));
    const foot = found?.note ? make("span", { className: "ark-hint", text: found.note }) : found && change(found, tile);
    tile.querySelector("[data-part=change]").replaceChildren(...[foot].filter(Boolean));
    tile.removeAttribute("aria-busy");
  }
}
