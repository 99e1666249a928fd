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

// From -255 to 255, as the four bytes of a pixel: one number is written much faster than four.
const COLOURS = Uint32Array.from({ length: 511 }, (_, i) => {
  const bytes = Uint8ClampedArray.of(...colourOf((i - 255) / 255), 255);
  return new Uint32Array(bytes.buffer)[0];
});

/** The pixels of an image, one number each. */
export function pixelsOf(image) {
  return new Uint32Array(image.data.buffer);
}

/** The pixel of a value; `largest` is the value that has the full color. */
export function pixelOf(value, largest) {
  const level = Math.round(Math.max(-1, Math.min(1, value / largest)) * 255);
  return COLOURS[level + 255];
}

/** A map as an image; `largest` is the value that has the full color. */
export function mapImage(values, height, width, largest) {
  const image = new ImageData(width, height);
  const pixels = pixelsOf(image);
  values.forEach((value, i) => {
    pixels[i] = pixelOf(value, largest);
  });
  return image;
}

/** A filter of three colors as an image; 0 is gray, and `largest` is the value of full color. */
export function filterImage(weights, height, width, largest) {
  const image = new ImageData(width, height);
  const size = height * width;
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++)
      image.data[i * 4 + c] = 127.5 + (127.5 * weights[c * size + i]) / largest;
    image.data[i * 4 + 3] = 255;
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

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** A number with at most three digits, as it is written by hand. */
export function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 0.001 && size < 1e6) return String(Number(value.toPrecision(3))).replace("-", "−");
  const [digits, exponent] = value.toExponential(1).split("e");
  const power = exponent
    .replace("+", "")
    .replace("-", "⁻")
    .replace(/\d/g, (d) => SUPERSCRIPTS[d]);
  return `${Number(digits)}·10${power}`.replace("-", "−");
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
