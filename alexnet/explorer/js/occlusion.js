// Occlusion, live: a square that covers a part of the image, moved by the pointer or by keys.
import { about } from "./data.js";
import { bars, make, percent } from "./draw.js";
import { best, probabilitiesOf } from "./network.js";

// As in attribution/occlusion.py.
const POSITIONS = 17;
const SIDE = sideOf(about.input_px);
// How far down and to the right a key moves the square, in pixels of the input.
const ARROWS = { ArrowUp: [-4, 0], ArrowDown: [4, 0], ArrowLeft: [0, -4], ArrowRight: [0, 4] };

/** The view. `input`: of the center crop; `crop`: the same as a canvas. */
export function occlusionView(input, crop, uncovered) {
  const px = about.input_px;
  const [label] = best(uncovered, 1);
  const canvas = make("canvas", {
    width: px * 3,
    height: px * 3,
    class: "photo movable",
    tabindex: "0",
    role: "application",
    "aria-label": "the image; arrow keys move the square",
  });
  const answers = make("div", { "aria-live": "polite" });
  const status = make("output", { class: "soft" });
  let [top, left] = [Math.round((px - SIDE) / 2), Math.round((px - SIDE) / 2)];
  let map = null;
  let wanted = false;
  let busy = false;

  const draw = () => {
    const context = canvas.getContext("2d");
    context.drawImage(crop, 0, 0, px * 3, px * 3);
    if (map) drawMap(context, map, uncovered[label]);
    context.fillStyle = "#9a958a";
    context.fillRect(left * 3, top * 3, SIDE * 3, SIDE * 3);
  };
  const answer = async () => {
    // Only the latest position counts: a slow machine skips those between.
    wanted = true;
    if (busy) return;
    busy = true;
    while (wanted) {
      wanted = false;
      const [p] = await probabilitiesOf([covered(input, top, left)]);
      const rows = best(uncovered).map((c) => {
        const change = `${percent(uncovered[c])} → ${percent(p[c])}`;
        return [about.classes[c], p[c], change];
      });
      answers.replaceChildren(bars(rows));
    }
    busy = false;
  };
  const move = (newTop, newLeft) => {
    const inside = (value) => Math.max(0, Math.min(px - SIDE, Math.round(value)));
    [top, left] = [inside(newTop), inside(newLeft)];
    draw();
    answer();
  };
  const follow = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = px / box.width;
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    move(y * scale - SIDE / 2, x * scale - SIDE / 2);
  };
  // A finger that touches the image has not moved yet.
  canvas.addEventListener("pointerdown", follow);
  canvas.addEventListener("pointermove", follow);
  canvas.addEventListener("keydown", (event) => {
    const by = ARROWS[event.key];
    if (!by) return;
    event.preventDefault();
    move(top + by[0], left + by[1]);
  });
  const all = make("button", {}, "Cover every position");
  all.addEventListener("click", async () => {
    // Once is enough. A disabled button would lose the keyboard's focus.
    if (map) return;
    all.setAttribute("aria-disabled", "true");
    const starts = startsOf(px);
    map = { starts, rows: [] };
    for (const rowStart of starts) {
      if (!canvas.isConnected) return;
      const inputs = starts.map((column) => covered(input, rowStart, column));
      map.rows.push((await probabilitiesOf(inputs)).map((p) => p[label]));
      status.textContent = `${map.rows.length * starts.length} of ${starts.length ** 2} positions`;
      draw();
      // The page stays alive between the rows.
      await new Promise((resume) => setTimeout(resume));
    }
    const lowest = Math.min(...map.rows.flat());
    status.textContent =
      `Red: ${about.classes[label]} falls, at most to ${percent(lowest)}. Blue: it rises.`;
  });
  draw();
  answer();
  const title = make("h3", {}, "Without and with the square");
  const beside = make("div", {}, title, answers, make("p", {}, all), status);
  return make(
    "article",
    {},
    make("h2", {}, "Occlusion"),
    make(
      "p",
      { class: "soft" },
      "Move the square over the image. Below it the network sees the mean image. It is " +
        `${SIDE} of ${px} pixels wide (Zeiler and Fergus, 2014).`,
    ),
    make("div", { class: "two" }, canvas, beside),
  );
}

/** The side of the square for an image of `px` pixels. */
function sideOf(px) {
  return Math.max(1, Math.round(px / 5));
}

/** Where the square begins, along both axes. */
export function startsOf(px) {
  const all = Array.from({ length: POSITIONS }, (_, i) =>
    halfToEven(((px - sideOf(px)) * i) / (POSITIONS - 1)),
  );
  return [...new Set(all)];
}

/** Round as NumPy does; Math.round takes the upper of two equally near numbers. */
function halfToEven(value) {
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 ? up - 1 : up;
}

/** The input with a square of zeros, which is the mean image. */
export function covered(input, top, left) {
  const px = about.input_px;
  const result = input.slice();
  for (let c = 0; c < 3; c++)
    for (let y = top; y < top + SIDE; y++) {
      const at = (c * px + y) * px + left;
      result.fill(0, at, at + SIDE);
    }
  return result;
}

/** Color each pixel by how much the probability falls, on average over the squares on it. */
function drawMap(context, { starts, rows }, uncovered) {
  const px = about.input_px;
  const sum = new Float32Array(px * px);
  const count = new Float32Array(px * px);
  rows.forEach((row, r) =>
    row.forEach((p, c) => {
      for (let y = starts[r]; y < starts[r] + SIDE; y++)
        for (let x = starts[c]; x < starts[c] + SIDE; x++) {
          sum[y * px + x] += uncovered - p;
          count[y * px + x] += 1;
        }
    }),
  );
  const drops = sum.map((value, i) => (count[i] ? value / count[i] : 0));
  const largest = Math.max(0.02, drops.reduce((a, b) => Math.max(a, Math.abs(b)), 0));
  const image = new ImageData(px, px);
  drops.forEach((drop, i) => {
    const color = drop > 0 ? [200, 30, 30] : [30, 90, 200];
    image.data.set([...color, 190 * (Math.abs(drop) / largest)], i * 4);
  });
  const small = new OffscreenCanvas(px, px);
  small.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(small, 0, 0, px * 3, px * 3);
}
