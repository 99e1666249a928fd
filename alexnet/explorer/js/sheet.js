// A sheet: the maps of one column of a layer as tiles on one canvas, for the mouse and for keys.
import { hasMaps } from "./data.js";
import { make, mapImage, short } from "./draw.js";

const GAP = 3;
// Of a tile, in pixels of the page: as many as a map has room for, and few enough for a row.
const SMALLEST = 22;
const USUAL = 46;
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
  const tile = hasMaps(op) ? (mapWidth < 4 ? SMALLEST : USUAL) : count <= 40 ? USUAL : CELL;
  const gap = hasMaps(op) || count <= 40 ? GAP : 1;
  const perRow = Math.max(1, Math.min(count, Math.floor((width + gap) / (tile + gap))));
  const rows = Math.ceil(count / perRow);
  // Device pixels, so that the grid is sharp on a projector and on a phone.
  const ratio = Math.max(1, Math.min(2, window.devicePixelRatio));
  const canvas = make("canvas", {
    class: "sheet",
    tabindex: "0",
    role: "application",
    "aria-label": `${count} units of ${op.name}; arrow keys choose one, Enter opens it`,
    width: Math.round((perRow * (tile + gap) - gap) * ratio),
    height: Math.round((rows * (tile + gap) - gap) * ratio),
  });
  canvas.style.width = `${canvas.width / ratio}px`;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  const place = (i) => [(i % perRow) * (tile + gap) * ratio, Math.floor(i / perRow) * (tile + gap) * ratio];
  let chosen = -1;

  const draw = (i) => {
    const map = values.subarray((first + i) * size, (first + i + 1) * size);
    const image = new OffscreenCanvas(mapWidth, height);
    image.getContext("2d").putImageData(mapImage(map, height, mapWidth, largest), 0, 0);
    context.drawImage(image, ...place(i), tile * ratio, tile * ratio);
  };
  for (let i = 0; i < count; i++) draw(i);

  const choose = (i) => {
    if (i === chosen) return;
    if (chosen >= 0) draw(chosen);
    chosen = i;
    if (i < 0) return;
    const [x, y] = place(i);
    context.strokeStyle = "#d97706";
    context.lineWidth = 2 * ratio;
    context.strokeRect(x + ratio, y + ratio, (tile - 2) * ratio, (tile - 2) * ratio);
    const map = values.subarray((first + i) * size, (first + i + 1) * size);
    const most = map.reduce((a, b) => Math.max(a, b), -Infinity);
    say(`${op.name}/${first + i}: ${hasMaps(op) ? "largest value " : ""}${short(most)}`);
  };
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    const step = ((tile + gap) * box.width) / (canvas.width / ratio);
    const column = Math.floor((event.clientX - box.left) / step);
    const i = Math.floor((event.clientY - box.top) / step) * perRow + column;
    return column < perRow && i >= 0 && i < count ? i : -1;
  };
  const open = () => {
    if (chosen >= 0) location.hash = `${op.name}/${first + chosen}`;
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
