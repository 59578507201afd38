// What every chart of the console shares: colours of the theme for a canvas, and times in the reader's zone.

// A canvas knows neither custom properties nor light-dark(): the browser resolves them on elements.
// All at once: each question of its own would have it work out the styles of the whole page again.
export function colours(element, names) {
  const probes = names.map((name) => {
    const probe = document.createElement("span");
    probe.hidden = true;
    probe.style.color = `var(${name})`;
    return probe;
  });
  element.append(...probes);
  const resolved = probes.map((probe) => getComputedStyle(probe).color);
  for (const probe of probes) probe.remove();
  return resolved;
}

// `rgb(22, 93, 255)`, as browsers resolve it, with an opacity of 0 to 1.
export function faded(resolved, opacity) {
  const [red, green, blue] = resolved.match(/[\d.]+/g) ?? [128, 128, 128];
  return `rgba(${red}, ${green}, ${blue}, ${opacity})`;
}

// How axes look, for uPlot; functions, so that a redraw is enough when the theme changes.
export function axisLook(element, colours) {
  const grid = { stroke: () => colours().border, width: 1 };
  return { stroke: () => colours().hint, grid, ticks: { ...grid, size: 4 }, font: `11px ${getComputedStyle(element).fontFamily}` };
}

// Formats epoch seconds; "" as zone is the browser's own.
export function clock(zone, options) {
  const format = new Intl.DateTimeFormat("en-CA", { hourCycle: "h23", timeZone: zone || undefined, ...options });
  return (seconds) => (seconds === null ? "–" : format.format(seconds * 1000).replace(", ", " "));
}
