// Training as time: the filters of the first layer, as the run has kept them.
import { about, array, row } from "./data.js";
import { canvasOf, filterImage, largestOf, make } from "./draw.js";

const STEP_MS = 350;

/** The view of all snapshots, with a slider over the epochs. */
export function trainingView() {
  const epochs = about.snapshots;
  if (!epochs.length)
    return make("p", {}, "This run has kept no snapshots; train with --snapshots N to see its filters grow.");
  const last = epochs.length - 1;
  const output = make("output", {}, "");
  const slider = make("input", { type: "range", min: 0, max: last, value: last, "aria-label": "epoch" });
  const sheets = make("div", { class: "columns" });
  const draw = () => {
    output.textContent = `epoch ${epochs[slider.value]}`;
    sheets.replaceChildren(...columnsAt(Number(slider.value)));
  };
  slider.addEventListener("input", draw);
  const play = make("button", {}, "Play");
  play.addEventListener("click", async () => {
    play.disabled = true;
    for (let i = 0; i <= last && slider.isConnected; i++) {
      slider.value = i;
      draw();
      await new Promise((resume) => setTimeout(resume, STEP_MS));
    }
    play.disabled = false;
  });
  draw();
  return make(
    "article",
    {},
    make("h2", {}, "Filters as they grow"),
    make("p", { class: "soft" }, "The filters of the first layer (Figure 3 of the paper), from the noise of the start on. All are drawn on the scale of the last epoch; gray is 0."),
    make("div", { class: "time" }, play, slider, output),
    sheets,
  );
}

function columnsAt(index) {
  const snapshots = array("snapshots");
  const [, count, channels, height, width] = snapshots.shape;
  const largest = largestOf(row(snapshots, about.snapshots.length - 1));
  const all = row(snapshots, index);
  const size = channels * height * width;
  const canvases = Array.from({ length: count }, (_, i) =>
    canvasOf(filterImage(all.subarray(i * size, (i + 1) * size), height, width, largest), 0),
  );
  const perColumn = count / about.columns;
  return Array.from({ length: about.columns }, (_, column) =>
    make(
      "div",
      { class: "column" },
      about.columns > 1 ? make("h4", {}, `column ${column + 1}`) : "",
      make("div", { class: "filters" }, ...canvases.slice(column * perColumn, (column + 1) * perColumn)),
    ),
  );
}
