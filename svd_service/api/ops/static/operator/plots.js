// Plots of the last day, as SVG. Each has a text alternative with its greatest and its latest value.

const WIDTH = 600;
const HEIGHT = 180;
const LEFT = 44;
const BOTTOM = 22;
const TOP = 10;

function shape(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

const hour = (moment) => `${String(moment.getHours()).padStart(2, "0")}:00`;

/** The frame of a plot of `points` ({ at, value }): its axes and marks; and how it places a value. */
function frame(points, greatest, show, label) {
  const svg = shape("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  const bottom = HEIGHT - BOTTOM;
  const x = (index) => LEFT + (index / Math.max(points.length - 1, 1)) * (WIDTH - LEFT - 8);
  const y = (value) => bottom - (value / greatest) * (bottom - TOP);
  svg.append(shape("line", { class: "axis", x1: LEFT, y1: bottom, x2: WIDTH, y2: bottom }));
  svg.append(shape("text", { x: 0, y: y(greatest) + 8 }, show(greatest)), shape("text", { x: 0, y: bottom }, show(0)));
  const every = Math.max(1, Math.round(points.length / 6));
  points.forEach(({ at }, index) => {
    if (index % every === 0) svg.append(shape("text", { x: x(index) - 14, y: HEIGHT - 5 }, hour(at)));
  });
  return { svg, x, y, bottom };
}

function summary(name, points, show) {
  const values = points.map(({ value }) => value);
  return `${name} in the last day: at most ${show(Math.max(0, ...values))}, now ${show(values.at(-1) ?? 0)}`;
}

export function linePlot(name, points, show) {
  const greatest = Math.max(1, ...points.map(({ value }) => value));
  const { svg, x, y } = frame(points, greatest, show, summary(name, points, show));
  const path = points.map(({ value }, index) => `${index ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`);
  svg.append(shape("path", { class: "line", d: path.join(" ") }));
  return svg;
}

export function barPlot(name, points, show) {
  const greatest = Math.max(1, ...points.map(({ value }) => value));
  const { svg, x, y, bottom } = frame(points, greatest, show, summary(name, points, show));
  const width = ((WIDTH - LEFT - 8) / points.length) * 0.7;
  points.forEach(({ value }, index) => {
    const height = (bottom - y(value)).toFixed(1);
    svg.append(shape("rect", { class: "bar", x: (x(index) - width / 2).toFixed(1), y: y(value).toFixed(1), width, height }));
  });
  return svg;
}
