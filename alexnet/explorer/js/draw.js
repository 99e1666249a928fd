// Elements, colors and maps on canvases.

/** Make an element: `make("a", {href: "#x", class: "y"}, "text", child)`. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

// Zero is paper; what is positive is ink and what is negative is red.
const PAPER = [244, 241, 234];
const INK = [16, 42, 67];
const RED = [176, 58, 46];

/** The color of a value from -1 to 1. */
export function colourOf(value) {
  const end = value < 0 ? RED : INK;
  // The root shows small values, too: most are small.
  const share = Math.sqrt(Math.min(1, Math.abs(value)));
  return PAPER.map((p, c) => p + (end[c] - p) * share);
}

const COLOURS = Array.from({ length: 511 }, (_, i) => colourOf((i - 255) / 255));

/** A map as an image; `largest` is the value that has the full color. */
export function mapImage(values, height, width, largest) {
  const image = new ImageData(width, height);
  for (let i = 0; i < values.length; i++) {
    const level = Math.round(Math.max(-1, Math.min(1, values[i] / largest)) * 255);
    const [r, g, b] = COLOURS[(Number.isNaN(level) ? 0 : level) + 255];
    image.data.set([r, g, b, 255], i * 4);
  }
  return image;
}

/** A canvas that shows an image with hard pixels, `side` pixels of the page wide. */
export function canvasOf(image, side, attributes = {}) {
  const canvas = make("canvas", { width: image.width, height: image.height, ...attributes });
  canvas.getContext("2d").putImageData(image, 0, 0);
  if (side) canvas.style.width = `${side}px`;
  return canvas;
}

/** The largest absolute value, 1 for nothing but zeros. */
export function largestOf(values) {
  let largest = 0;
  for (const value of values) largest = Math.max(largest, Math.abs(value));
  return largest || 1;
}

export function percent(share) {
  return `${(100 * share).toFixed(share >= 0.9995 || share < 0.0005 ? 0 : 1)} %`;
}

/** A number with three digits. */
export function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1000 || size < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

/** A list of classes with bars: [name, share, text] each; shares from 0 to 1. */
export function bars(rows) {
  return make(
    "ol",
    { class: "bars" },
    ...rows.map(([name, share, text]) => {
      const bar = make("span", { class: "bar" });
      bar.style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
      return make(
        "li",
        {},
        make("span", { class: "name" }, name),
        make("span", { class: "value" }, text),
        make("span", { class: "track" }, bar),
      );
    }),
  );
}
