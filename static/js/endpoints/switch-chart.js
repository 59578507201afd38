// The first chart of the product: wanted and seen share over time, drawn by uPlot from the page's own JSON.
const box = document.getElementById("switch-chart");
const REFRESH_MS = 10_000;
let plot = null;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function options() {
  const grid = { stroke: colour("--ark-border"), width: 1 };
  const axis = { stroke: colour("--ark-hint"), grid, ticks: grid };
  return {
    width: Math.max(box.clientWidth, 240),
    height: 220,
    legend: { live: true },
    cursor: { drag: { x: false, y: false } },
    scales: { x: { time: true }, y: { range: [0, 100] } },
    axes: [axis, { ...axis, size: 48, values: (_plot, values) => values.map((value) => `${value} %`) }],
    series: [
      {},
      { label: box.dataset.wanted, stroke: colour("--ark-hint"), width: 1.5, dash: [6, 4], paths: uPlot.paths.stepped({ align: 1 }) },
      { label: box.dataset.seen, stroke: colour("--ark-accent"), width: 2, spanGaps: true, points: { size: 4 } },
    ],
  };
}

function draw(figures) {
  const data = [figures.time, figures.wanted, figures.seen];
  if (plot) {
    plot.setData(data);
    return;
  }
  box.replaceChildren();
  plot = new uPlot(options(), data, box);
}

function redraw() {
  if (!plot) return;
  const data = plot.data;
  plot.destroy();
  plot = new uPlot(options(), data, box);
}

async function load() {
  try {
    const answer = await fetch(box.dataset.src, { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    const figures = await answer.json();
    if (figures.time.length > 1) draw(figures);
    else if (!plot) box.textContent = box.dataset.none;
  } catch {
    // The page's own refresh says when the console does not answer.
  }
}

if (box && window.uPlot) {
  load();
  new ResizeObserver(() => plot && plot.setSize({ width: Math.max(box.clientWidth, 240), height: 220 })).observe(box);
  new MutationObserver(redraw).observe(document.documentElement, { attributes: true, attributeFilter: ["data-bs-theme"] });
  if ("live" in box.dataset) {
    setInterval(() => {
      if (!document.hidden && document.querySelector("#switch-watch[hx-get]")) load();
    }, REFRESH_MS);
  }
}
