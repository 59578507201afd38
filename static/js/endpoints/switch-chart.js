// The first chart of the product: wanted and seen share over time, drawn by uPlot from the page's own JSON.
import { axisLook, clock, colours } from "../charts.js";

const box = document.getElementById("switch-chart");
const table = document.getElementById("switch-shares")?.closest("details");
const HEIGHT = 220;
const REFRESH_MS = 10_000;
let plot = null;

const at = clock(box?.dataset.zone, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const percent = (value) => (value === null || value === undefined ? "–" : `${value} %`);

function options() {
  const [border, hint, seen] = colours(box, ["--ark-border", "--ark-hint", "--ark-accent-text"]);
  const axis = axisLook(box, () => ({ border, hint }));
  return {
    width: Math.max(box.clientWidth, 240),
    height: HEIGHT,
    cursor: { drag: { x: false, y: false } },
    scales: { x: { time: true }, y: { range: [0, 100] } },
    axes: [
      { ...axis, space: 80, size: 32, values: (_plot, values) => values.map(at) },
      { ...axis, size: 52, incrs: [20], values: (_plot, values) => values.map(percent) },
    ],
    series: [
      { label: box.dataset.time, value: (_plot, value) => at(value) },
      {
        label: box.dataset.wanted, stroke: hint, width: 1.5, dash: [6, 4], points: { show: false },
        paths: uPlot.paths.stepped({ align: 1 }), value: (_plot, value) => percent(value),
      },
      {
        label: box.dataset.seen, stroke: seen, width: 2, spanGaps: true, points: { size: 4 },
        value: (_plot, value) => percent(value),
      },
    ],
  };
}

function draw(data) {
  plot?.destroy();
  box.replaceChildren();
  plot = new uPlot(options(), data, box);
}

async function load() {
  try {
    const answer = await fetch(box.dataset.src, { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    const figures = await answer.json();
    const data = [figures.time, figures.wanted, figures.seen];
    if (plot) plot.setData(data);
    else if (figures.time.length > 1) draw(data);
    else box.textContent = box.dataset.none;
  } catch {
    // The page's own refresh says when the console does not answer.
  }
}

function isOpen() {
  return document.querySelector("#switch-watch[hx-get]") !== null;
}

if (box && window.uPlot) {
  load();
  new ResizeObserver(() => plot?.setSize({ width: Math.max(box.clientWidth, 240), height: HEIGHT })).observe(box);
  document.addEventListener("ark:themed", () => plot && draw(plot.data));
  if (isOpen()) {
    let wasOpen = true;
    setInterval(() => {
      if (document.hidden || !wasOpen) return;
      wasOpen = isOpen(); // once more after the end, for the last move
      load();
      if (table?.open) table.dispatchEvent(new Event("toggle"));
    }, REFRESH_MS);
  }
}
