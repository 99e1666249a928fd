// Local response normalization as a switch with sliders: a map before and after, and its neighbors.
import { about, addressOf } from "./data.js";
import { canvasOf, largestOf, make, mapImage, short } from "./draw.js";
import { neighboursOf, normalise } from "./lrn.js";

const SLIDERS = [
  // name, smallest, largest, step, from the slider's position to the value and back
  ["k", 0.1, 10, 0.1],
  ["n", 1, 15, 2],
  ["alpha", -6, 1, 0.05, (x) => 10 ** x, Math.log10],
  ["beta", 0, 2, 0.05],
];

const state = { op: null, map: null, on: true, ...about.lrn };

export function lrnOps() {
  return about.ops.filter((op) => op.op === "lrn");
}

/** The view. `values` are those of all operations. */
export function normalisationView(values) {
  const ops = lrnOps();
  if (!ops.length) return make("p", {}, "This network has no local response normalization.");
  state.op = ops.includes(state.op) ? state.op : ops[0];
  const result = make("div", { class: "maps" });
  const numbers = make("p", { class: "formula", "aria-live": "polite" });
  const draw = () => fill(result, numbers, values);
  const controls = make("div", { class: "controls" });
  // `focused` selects the control that was used: it keeps the keyboard's focus.
  const build = (focused) => {
    // One that has neighbors on both sides.
    state.map ??= Math.floor(state.op.shape[0] / about.lrn.columns / 2);
    controls.replaceChildren(...inputs(ops, draw, build));
    if (focused) controls.querySelector(focused).focus();
    draw();
  };
  build();
  // Caffe's networks have two columns and normalize across them.
  const inColumn = about.lrn.columns > 1 ? " and in the same column" : "";
  return make(
    "article",
    {},
    make("h2", {}, "Local response normalization"),
    make(
      "p",
      { class: "soft" },
      "Section 3.3 of the paper: each value is divided by a power of the summed squares of the " +
        `maps beside it, at the same place${inColumn}.`,
    ),
    controls,
    numbers,
    result,
  );
}

function inputs(ops, draw, build) {
  const where = make(
    "select",
    {},
    ...ops.map((op) => make("option", { selected: op === state.op }, op.layer)),
  );
  where.addEventListener("change", () => {
    state.op = ops[where.selectedIndex];
    state.map = null;
    build("select");
  });
  const on = make("input", { type: "checkbox", role: "switch", checked: state.on });
  on.addEventListener("change", () => {
    state.on = on.checked;
    draw();
  });
  const last = state.op.shape[0] - 1;
  const map = make("input", { type: "range", min: 0, max: last, value: state.map });
  const number = make("output", {}, String(state.map));
  map.addEventListener("input", () => {
    state.map = Number(map.value);
    number.textContent = map.value;
    draw();
  });
  const reset = make("button", {}, "This network’s values");
  reset.addEventListener("click", () => {
    Object.assign(state, about.lrn);
    build("button");
  });
  return [
    ops.length > 1 ? make("label", {}, "layer", where, "") : "",
    make("label", {}, "map", map, number),
    make("label", { class: "switch" }, "normalization", on, ""),
    ...SLIDERS.map((slider) => sliderOf(slider, draw)),
    reset,
  ];
}

function sliderOf([name, min, max, step, value = Number, position = Number], draw) {
  const start = position(state[name]);
  const input = make("input", { type: "range", min, max, step, value: start, name });
  const output = make("output", {}, short(state[name]));
  input.addEventListener("input", () => {
    state[name] = value(Number(input.value));
    output.textContent = short(state[name]);
    draw();
  });
  return make("label", {}, { alpha: "α", beta: "β" }[name] ?? name, input, output);
}

function fill(result, numbers, values) {
  const { op, map, on } = state;
  const [maps, height, width] = op.shape;
  const size = height * width;
  const before = values[about.ops[about.ops.indexOf(op) - 1].name];
  const settings = { ...state, columns: about.lrn.columns };
  const { result: after, divisors } = normalise(before, maps, settings);
  const shown = on ? after : before;
  const part = (array, i) => array.subarray(i * size, (i + 1) * size);
  // Five beside each other whatever n is, so that the view does not jump.
  const [first, last] = neighboursOf(map, maps, 5, about.lrn.columns);
  const [from, to] = neighboursOf(map, maps, state.n, about.lrn.columns);
  const columns = Array.from({ length: last - first + 1 }, (_, i) => first + i);
  const frameOf = (i) => (i === map ? "this" : i >= from && i <= to ? "sums" : "");
  const row = (name, array) => {
    const largest = Math.max(...columns.map((i) => largestOf(part(array, i))));
    const links = columns.map((i) => {
      const canvas = canvasOf(mapImage(part(array, i), height, width, largest), 0);
      const number = make("span", {}, String(i));
      return make("a", { href: addressOf(op.name, i), class: frameOf(i) }, canvas, number);
    });
    return [
      make("h3", {}, name, make("small", {}, `full color: ${short(largest)}`)),
      make("div", { class: "five" }, ...links),
    ];
  };
  const below = row(on ? "after" : "after: switched off", shown);
  result.replaceChildren(...row("before", before), ...below);
  const used = part(divisors, map);
  const least = used.reduce((a, b) => Math.min(a, b));
  const most = used.reduce((a, b) => Math.max(a, b));
  if (!on) return numbers.replaceChildren("b = a");
  return numbers.replaceChildren(
    `b = a / (${short(state.k)} + ${short(state.alpha)} · Σ a²)`,
    make("sup", {}, short(state.beta)),
    make(
      "small",
      {},
      `Σ over maps ${from} to ${to}; map ${map} is divided by ${least.toFixed(2)} to ` +
        `${most.toFixed(2)}.`,
    ),
  );
}

/** Whether this page's own formula gives what the network computed, for its self-check. */
export function lrnDifference(values) {
  let largest = 0;
  for (const op of lrnOps()) {
    const before = values[about.ops[about.ops.indexOf(op) - 1].name];
    const { result } = normalise(before, op.shape[0], about.lrn);
    result.forEach((value, i) => {
      largest = Math.max(largest, Math.abs(value - values[op.name][i]));
    });
  }
  return largest;
}
