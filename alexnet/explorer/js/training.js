// Training as time: the filters of the first layer, as the runs have kept them.
import { about, array, row } from "./data.js";
import { canvasOf, filterImage, largestOf, make } from "./draw.js";

// Between two moments, and of all of them at most.
const STEP_MS = 350;
const PLAY_MS = 12000;

/** The view of all snapshots, with a slider over the training. */
export function trainingView() {
  const runs = about.snapshots.map((run, i) => ({ ...run, snapshots: array(`snapshots/${i}`) }));
  if (!runs.length)
    return make(
      "p",
      {},
      "This run has kept no snapshots; train with --snapshots N to see its filters grow.",
    );
  const moments = momentsOf(runs);
  const last = moments.length - 1;
  const output = make("output", {}, "");
  const slider = make("input", {
    type: "range",
    min: 0,
    max: last,
    value: last,
    "aria-label": "training",
  });
  const shown = make("div", { class: runs.length > 1 ? "beside" : "" });
  const draw = () => {
    const moment = moments[slider.value];
    output.textContent =
      runs.length > 1 ? `${Math.round(100 * moment)} % of training` : epochOf(runs[0], moment);
    slider.setAttribute("aria-valuetext", output.textContent);
    shown.replaceChildren(...runs.map((run) => sectionOf(run, moment, runs.length > 1)));
  };
  slider.addEventListener("input", draw);
  const play = make("button", {}, "Play");
  const pauseMs = Math.min(STEP_MS, PLAY_MS / moments.length);
  let isPlaying = false;
  play.addEventListener("click", async () => {
    // A disabled button would lose the keyboard's focus.
    if (isPlaying) return;
    isPlaying = true;
    play.setAttribute("aria-disabled", "true");
    for (let i = 0; i <= last && slider.isConnected; i++) {
      slider.value = i;
      draw();
      await new Promise((resume) => setTimeout(resume, pauseMs));
    }
    play.removeAttribute("aria-disabled");
    isPlaying = false;
  });
  draw();
  const scale =
    runs.length > 1
      ? "Each run is drawn on the scale of its own last epoch, at the nearest epoch that it has " +
        "kept"
      : "All are drawn on the scale of the last epoch";
  return make(
    "article",
    { class: "training" },
    make("h2", {}, "Filters as they grow"),
    make(
      "p",
      { class: "soft" },
      "The filters of the first layer (Figure 3 of the paper), from the noise of the start on. " +
        `${scale}; gray is 0.`,
    ),
    make("div", { class: "time" }, play, slider, output),
    shown,
  );
}

/** When the runs have kept their filters, as shares of the way to the last snapshot of each. */
function momentsOf(runs) {
  const all = runs.flatMap((run) => run.epochs.map((epoch) => epoch / lastOf(run)));
  return [...new Set(all)].sort((a, b) => a - b);
}

function lastOf(run) {
  // A run that has kept its start alone has been trained for no epoch.
  return run.epochs[run.epochs.length - 1] || 1;
}

/** The number of the snapshot that is nearest to a moment. */
function nearestTo(run, moment) {
  const distances = run.epochs.map((epoch) => Math.abs(epoch / lastOf(run) - moment));
  return distances.indexOf(Math.min(...distances));
}

function epochOf(run, moment) {
  return `epoch ${run.epochs[nearestTo(run, moment)]}`;
}

/** The filters of a run at a moment, under its name if there are several runs. */
function sectionOf(run, moment, isNamed) {
  const epoch = make("small", {}, `${run.run}, ${epochOf(run, moment)}`);
  const title = make("h3", {}, run.recipe, epoch);
  const columns = make("div", { class: "columns" }, ...columnsAt(run, nearestTo(run, moment)));
  return make("section", {}, isNamed ? title : "", columns);
}

function columnsAt({ snapshots, columns }, index) {
  const [kept, count, channels, height, width] = snapshots.shape;
  const largest = largestOf(row(snapshots, kept - 1));
  const all = row(snapshots, index);
  const size = channels * height * width;
  const canvases = Array.from({ length: count }, (_, i) =>
    canvasOf(filterImage(all.subarray(i * size, (i + 1) * size), height, width, largest), 0),
  );
  const perColumn = count / columns;
  return Array.from({ length: columns }, (_, column) => {
    const own = canvases.slice(column * perColumn, (column + 1) * perColumn);
    return make(
      "div",
      { class: "column" },
      columns > 1 ? make("h4", {}, `column ${column + 1}`) : "",
      make("div", { class: "filters" }, ...own),
    );
  });
}
