// One unit at its own address: `page.html#conv3/217`.
import {
  about,
  addressOf,
  array,
  columnsOf,
  hasMaps,
  imageAddress,
  opOf,
  row,
  seenBy,
  titleOf,
} from "./data.js";
import { bars, canvasOf, filterImage, largestOf, make, mapImage, short } from "./draw.js";

/** The unit that an address names: its operation and its number, or null. */
export function unitOf(address) {
  const match = /^(.+)\/(\d+)$/.exec(address);
  const op = match && opOf(match[1]);
  const number = match && Number(match[2]);
  return op && number < op.shape[0] ? { op, number } : null;
}

/** The view of a unit. `crop`: the image that the network sees, a canvas. */
export function unitView({ op, number }, values, crop) {
  const columns = columnsOf(op);
  const count = op.shape[0];
  const column = columns > 1 ? `column ${Math.floor(number / (count / columns)) + 1}, ` : "";
  const step = (by, text) => {
    const href = addressOf(op.name, (number + by + count) % count);
    const arrow = by < 0 ? "←" : "→";
    return make("a", { href, "aria-label": `${text} unit`, rel: text }, arrow);
  };
  return make(
    "article",
    { class: "unit" },
    make("p", { class: "back" }, make("a", { href: "#layers" }, "All layers")),
    make("h2", {}, step(-1, "previous"), ` ${titleOf(op, number)} `, step(1, "next")),
    make("p", { class: "soft" }, `${column}unit ${number} of 0 to ${count - 1}; ${seenBy(op)}`),
    make("div", { class: "facts" }, here(op, number, values, crop), ...learned(op, number)),
  );
}

// Frames and edges are sharper than the image.
const SCALE = 3;

/** Where in the reader's image the unit fires. */
function here(op, number, values, crop) {
  const [, height, width] = op.shape;
  const size = height * width;
  const map = values[op.name].subarray(number * size, (number + 1) * size);
  const all = largestOf(values[op.name]);
  let place = 0;
  map.forEach((value, i) => {
    if (value > map[place]) place = i;
  });
  const fires = map[place] > 0;
  const px = about.input_px;
  const canvas = make("canvas", { width: SCALE * px, height: SCALE * px, class: "photo" });
  const context = canvas.getContext("2d");
  context.scale(SCALE, SCALE);
  context.drawImage(crop, 0, 0);
  if (hasMaps(op)) veil(context, op, map);
  if (fires && op.field.size_px < about.input_px) frame(context, op, place);
  const text = fires
    ? `Its largest value is ${short(map[place])}; the largest of the layer is ${short(all)}.` +
      (hasMaps(op) ? " Bright: where it fires." : "") +
      (op.field.size_px < about.input_px ? " The frame is what it sees at its strongest place." : "")
    : "It does not fire for this image.";
  const image = mapImage(map, height, width, largestOf(map));
  const shown = hasMaps(op) ? canvasOf(image, 0, { class: "map" }) : "";
  return make(
    "section",
    { class: "here" },
    make("h3", {}, "In this image"),
    make("div", { class: "pair" }, canvas, shown),
    make("p", { class: "soft" }, text),
  );
}

const DARK = 170;

/** Darken the image where the unit does not fire. */
function veil(context, op, map) {
  const px = about.input_px;
  const [, height, width] = op.shape;
  const { size_px: size, stride_px: stride, first_px: first } = op.field;
  const largest = Math.max(...map, 1e-12);
  const dark = new ImageData(width, height);
  map.forEach((value, i) => {
    dark.data[i * 4 + 3] = DARK * (1 - Math.sqrt(Math.max(0, value) / largest));
  });
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(dark, 0, 0);
  // The middle of the small pixel lies on the middle of what the unit sees.
  const start = first + (size - 1) / 2 + 0.5 - stride / 2;
  context.fillStyle = `rgb(0 0 0 / ${DARK / 255})`;
  const end = start + stride * width;
  context.fillRect(0, 0, px, Math.max(0, start));
  context.fillRect(0, Math.max(0, start), Math.max(0, start), px);
  context.fillRect(end, Math.max(0, start), px, px);
  context.fillRect(Math.max(0, start), end, Math.max(0, end - Math.max(0, start)), px);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, start, start, stride * width, stride * height);
}

function frame(context, op, place) {
  const width = op.shape[2];
  const { size_px: size, stride_px: stride, first_px: first } = op.field;
  context.strokeStyle = "#f59e0b";
  context.lineWidth = 1;
  const corner = [place % width, Math.floor(place / width)].map((i) => first + i * stride);
  context.strokeRect(...corner, size, size);
}

/** What is known of the unit beside this image. */
function learned(op, number) {
  if (!about.layers.includes(op.name)) {
    const layer = make("a", { href: addressOf(op.layer, number) }, `${op.layer}/${number}`);
    const text = make("p", {}, "Patches, classes and made images are those of ", layer, ".");
    return [make("section", {}, text)];
  }
  return [
    make("div", {}, filter(op, number), made(op, number), classes(op, number)),
    patches(op, number),
  ];
}

function filter(op, number) {
  if (op.layer !== about.ops[0].layer || !about.index.filters) return "";
  const filters = array("filters");
  const [, , height, width] = filters.shape;
  const weights = row(filters, number);
  const image = filterImage(weights, height, width, largestOf(weights));
  return make(
    "section",
    {},
    make("h3", {}, "Its filter"),
    canvasOf(image, 0, { class: "filter" }),
    make("p", { class: "soft" }, `${height} × ${width} weights for each color; gray is 0.`),
  );
}

function made(op, number) {
  const index = about.made[op.name].indexOf(number);
  const content =
    index >= 0
      ? make("img", { src: imageAddress(`${op.name}/made`, index), alt: "", class: "made" })
      : make(
          "p",
          { class: "soft" },
          "The page has such images for the units of this layer with the largest values " +
            `(${about.made[op.name].length}), and not for this one.`,
        );
  return make("section", {}, make("h3", {}, "What maximizes it"), content);
}

/** The patches of the page's images in which the unit is strongest. */
function patches(op, number) {
  const images = row(array(`${op.name}/images`), number);
  const places = row(array(`${op.name}/places`), number);
  const values = row(array(`${op.name}/values`), number);
  const names = array("labels").values;
  const tiles = [];
  images.forEach((image, i) => {
    if (values[i] <= 0) return;
    const text = `${about.classes[names[image]]}, ${short(values[i])}`;
    tiles.push(make("figure", {}, patch(op, image, places[i], text), make("figcaption", {}, text)));
  });
  const { count, of } = about.images;
  const part = count < of ? `, a part of the split’s ${of}` : "";
  return make(
    "section",
    { class: "wide" },
    make("h3", {}, "Strongest patches"),
    tiles.length
      ? make("div", { class: "patches" }, ...tiles)
      : make("p", {}, "No image makes it fire."),
    make("p", { class: "soft" }, `Of ${count} images${part}; one patch of each.`),
  );
}

function patch(op, image, place, text) {
  const width = op.shape[2];
  const { size_px: size, stride_px: stride, first_px: first } = op.field;
  const side = Math.min(size, about.input_px);
  const canvas = make("canvas", { width: side, height: side, role: "img", "aria-label": text });
  const picture = new Image();
  picture.onload = () => {
    const [x, y] = [place % width, Math.floor(place / width)].map((i) =>
      side < about.input_px ? -(first + i * stride) : 0,
    );
    canvas.getContext("2d").drawImage(picture, x, y);
  };
  picture.src = imageAddress("images", image);
  return canvas;
}

function classes(op, number) {
  const labels = row(array(`${op.name}/classes`), number);
  const adds = row(array(`${op.name}/adds`), number);
  const rows = [];
  labels.forEach((label, i) => {
    if (adds[i] > 0) rows.push([about.classes[label], adds[i] / adds[0], short(adds[i])]);
  });
  return make(
    "section",
    {},
    make("h3", {}, "Classes it is evidence for"),
    rows.length ? bars(rows) : make("p", {}, "For none."),
    make(
      "p",
      { class: "soft" },
      "What it adds to the logit of the class, above the mean logit, on average over the class’s " +
        "images (value times gradient).",
    ),
  );
}
