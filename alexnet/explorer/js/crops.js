// The test crops of section 4.1, each with its own answer, and their average.
import { about } from "./data.js";
import { bars, canvasOf, make, percent } from "./draw.js";
import { cropPixels } from "./image.js";
import { best } from "./network.js";

/** The view. `answers`: the probabilities of each crop; `average`: their average. */
export function cropsView(stored, image, answers, average) {
  const names = about.classes;
  const { crop_px: px } = about;
  const cards = about.crops.map((crop, i) => {
    const [winner] = best(answers[i], 1);
    const text = `${names[winner]} ${percent(answers[i][winner])}`;
    const [top, left, reflected] = crop;
    const caption = make("figcaption", {}, text, reflected ? make("small", {}, "reflected") : "");
    const canvas = canvasOf(cropPixels(stored, crop), 0);
    const figure = make("figure", { tabindex: "0" }, canvas, caption);
    const show = (on) => () => drawFrames(whole, image, on ? [[top, left]] : about.crops, px);
    figure.addEventListener("pointerenter", show(true));
    figure.addEventListener("focus", show(true));
    figure.addEventListener("pointerleave", show(false));
    figure.addEventListener("blur", show(false));
    return figure;
  });
  const side = about.stored_px * 3;
  const whole = make("canvas", { width: side, height: side, class: "photo" });
  drawFrames(whole, image, about.crops, px);
  const rows = best(average).map((c) => [names[c], average[c], percent(average[c])]);
  const count = about.crops.length;
  return make(
    "article",
    {},
    make("h2", {}, count === 1 ? "The test crop" : `The ${count} test crops`),
    make(
      "p",
      { class: "soft" },
      "Section 4.1 of the paper: the probabilities of the crops are averaged, as alexnet predict " +
        "does.",
    ),
    make(
      "div",
      { class: "two" },
      whole,
      make("div", {}, make("h3", {}, "The average"), bars(rows)),
    ),
    make("div", { class: "crops" }, ...cards),
  );
}

function drawFrames(canvas, image, crops, px) {
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.strokeStyle = "#f59e0b";
  context.lineWidth = 3;
  for (const [top, left] of crops)
    context.strokeRect(left * 3 + 1.5, top * 3 + 1.5, px * 3 - 3, px * 3 - 3);
}
