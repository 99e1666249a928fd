// A sheet: the maps of one column of a layer as tiles on one canvas, for the mouse and for keys.
import { addressOf, hasMaps, titleOf } from "./data.js";
import { make, pixelOf, pixelsOf, short } from "./draw.js";

const GAP = 3;
// Of a tile, in pixels of the page: as many as a map has room for, and few enough for a row.
const SMALLEST = 22;
const USUAL = 46;
const NARROW = 30;
const NARROW_ROOM = 240;
const CELL = 11;

/**
 * Make a sheet.
 *
 * @param op The operation whose values it shows.
 * @param values Those of the whole layer.
 * @param first, count The units of this column.
 * @param largest The value that has the full color.
 * @param width Room in pixels of the page.
 * @param say Called with a sentence about the unit below the pointer.
 */
export function sheet(op, values, first, count, largest, width, say) {
  const [, height, mapWidth] = op.shape;
  const size = height * mapWidth;
  const large = width < NARROW_ROOM ? NARROW : USUAL;
  const tile = hasMaps(op) ? (mapWidth < 4 ? SMALLEST : large) : count <= 40 ? large : CELL;
  const gap = hasMaps(op) || count <= 40 ? GAP : 1;
  const perRow = Math.max(1, Math.min(count, Math.floor((width + gap) / (tile + gap))));
  const rows = Math.ceil(count / perRow);
  // Device pixels, so that the grid is sharp on a projector and on a phone.
  const ratio = Math.max(1, Math.min(2, window.devicePixelRatio));
  const step = Math.round((tile + gap) * ratio);
  const side = Math.round(tile * ratio);
  const canvas = make("canvas", {
    class: "sheet",
    tabindex: "0",
    role: "application",
    "aria-label": `${count} units of ${op.name}; arrow keys choose one, Enter opens it`,
    width: (perRow - 1) * step + side,
    height: (rows - 1) * step + side,
  });
  canvas.style.width = `${canvas.width / ratio}px`;
  const context = canvas.getContext("2d");
  const place = (i) => [(i % perRow) * step, Math.floor(i / perRow) * step];
  // All tiles are one image: a canvas for each of a thousand units took most of a second.
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = pixelsOf(image);
  for (let i = 0; i < count; i++) {
    const [left, top] = place(i);
    for (let y = 0; y < side; y++) {
      const from = (first + i) * size + Math.floor((y * height) / side) * mapWidth;
      const to = (top + y) * canvas.width + left;
      for (let x = 0; x < side; x++)
        pixels[to + x] = pixelOf(values[from + Math.floor((x * mapWidth) / side)], largest);
    }
  }
  context.putImageData(image, 0, 0);
  let chosen = -1;

  const choose = (i) => {
    if (i === chosen) return;
    // Without the frame of the one that was chosen before.
    if (chosen >= 0) context.putImageData(image, 0, 0, ...place(chosen), side, side);
    chosen = i;
    if (i < 0) return;
    const [x, y] = place(i);
    context.strokeStyle = "#d97706";
    context.lineWidth = 2 * ratio;
    context.strokeRect(x + ratio, y + ratio, side - 2 * ratio, side - 2 * ratio);
    const map = values.subarray((first + i) * size, (first + i + 1) * size);
    const most = map.reduce((a, b) => Math.max(a, b), -Infinity);
    say(`${titleOf(op, first + i)}: ${hasMaps(op) ? "largest value " : ""}${short(most)}`);
  };
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    const shownStep = (step * box.width) / canvas.width;
    const column = Math.floor((event.clientX - box.left) / shownStep);
    const i = Math.floor((event.clientY - box.top) / shownStep) * perRow + column;
    return column < perRow && i >= 0 && i < count ? i : -1;
  };
  const open = () => {
    if (chosen >= 0) location.hash = addressOf(op.name, first + chosen);
  };
  canvas.addEventListener("pointermove", (event) => choose(under(event)));
  canvas.addEventListener("pointerleave", () => choose(-1));
  canvas.addEventListener("click", (event) => {
    choose(under(event));
    open();
  });
  canvas.addEventListener("focus", () => {
    if (chosen < 0 && canvas.matches(":focus-visible")) choose(0);
  });
  canvas.addEventListener("blur", () => choose(-1));
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -perRow, ArrowDown: perRow };
    if (event.key === "Enter") open();
    else if (event.key in moves) {
      const next = chosen + moves[event.key];
      if (next >= 0 && next < count) choose(next);
    } else return;
    event.preventDefault();
  });
  return canvas;
}
