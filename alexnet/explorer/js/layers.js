// Every layer: its maps as tiles, both columns side by side, and where they meet.
import { about, columnsOf, hasMaps, opOf, seenBy } from "./data.js";
import { largestOf, make } from "./draw.js";
import { sheet } from "./sheet.js";

const WORDS = {
  linear: "weights",
  activation: { relu: "ReLU", tanh: "tanh", logistic: "logistic" }[about.activation],
  lrn: "normalized over neighbors",
  spatial_norm: "normalized over a square",
  max_pool: "pooled",
  avg_pool: "pooled",
  batch_norm: "batch norm.",
  dropout: "dropout",
};

// The operation that is shown of each layer, where the reader has chosen another than the last.
const shown = new Map();

/** The view of all layers; `values` are those of all operations. */
export function layersView(values, width) {
  const view = make("div", { class: "layers" });
  for (const layer of [...new Set(about.ops.map((op) => op.layer))])
    view.append(layerSection(layer, values, width));
  return view;
}

function layerSection(layer, values, width) {
  const ops = about.ops.filter((op) => op.layer === layer);
  const section = make("section", { class: "layer", id: `layer-${layer}` });
  const fill = () => {
    const op = opOf(shown.get(layer)) ?? opOf(layer) ?? ops[ops.length - 1];
    section.replaceChildren(
      joinOf(ops[0]),
      heading(layer, op),
      steps(ops, op, (name) => {
        shown.set(layer, name);
        fill();
        section.querySelector(".steps [aria-pressed=true]").focus();
      }),
      ...columnsView(op, values[op.name], width),
    );
  };
  fill();
  return section;
}

function heading(layer, op) {
  const [units, height, width] = op.shape;
  const columns = columnsOf(op);
  const what = hasMaps(op) ? `maps of ${height} × ${width}` : "units";
  const count = columns > 1 ? `${columns} × ${units / columns} ${what}` : `${units} ${what}`;
  return make("h3", {}, layer, make("small", {}, `${count}; each unit ${seenBy(op)}`));
}

/** Buttons for the operations of a layer, in the order in which they are computed. */
function steps(ops, chosen, choose) {
  const buttons = ops.map((op) =>
    make(
      "button",
      { "aria-pressed": String(op === chosen), onclick: () => choose(op.name), title: op.name },
      WORDS[op.op],
    ),
  );
  return make("div", { class: "steps", role: "group", "aria-label": "operations" }, ...buttons);
}

/** How the columns before a layer are connected with those behind it. */
function joinOf(op) {
  const index = about.ops.indexOf(op);
  if (about.columns === 1 || index === 0) return "";
  const before = columnsOf(about.ops[index - 1]);
  const after = columnsOf(op);
  const meet = op.sees === 1;
  const lines = [];
  const at = (i, count) => (100 * (i + 0.5)) / count;
  for (let i = 0; i < before; i++)
    for (let j = 0; j < after; j++)
      if (meet || i === j)
        lines.push(
          `<line x1="${at(i, before)}" y1="1" x2="${at(j, after)}" y2="31" ` +
            `class="${i === j ? "own" : "cross"}"/>`,
        );
  const text = meet ? "the columns meet: each unit sees both" : "each column sees its own";
  const join = make("div", { class: meet ? "join meet" : "join" });
  join.innerHTML =
    '<svg viewBox="0 0 100 32" preserveAspectRatio="none" aria-hidden="true">' +
    `${lines.join("")}</svg>`;
  join.prepend(make("span", {}, text));
  return join;
}

function columnsView(op, values, width) {
  const columns = columnsOf(op);
  const count = op.shape[0] / columns;
  const largest = largestOf(values);
  const caption = make("output", { class: "caption" }, "\u00a0");
  const room = columns > 1 ? (width - 16 * (columns - 1)) / columns : width;
  const parts = Array.from({ length: columns }, (_, column) =>
    make(
      "div",
      { class: "column" },
      columns > 1 ? make("h4", {}, `column ${column + 1}`) : "",
      sheet(op, values, column * count, count, largest, room, (text) => {
        caption.textContent = text;
      }),
    ),
  );
  return [make("div", { class: "columns" }, ...parts), caption];
}
