// Figure 4 of the paper, live: the images of the page nearest to the reader's.
import { about, array, imageAddress, row } from "./data.js";
import { make, short } from "./draw.js";
import { thumbnail } from "./image.js";

const NEAREST = 6;

/**
 * The view. `crop`: the center crop as ImageData; `own`: the image's number in the page, or null.
 */
export function neighboursView(values, crop, own) {
  const layer = about.hidden;
  const { count, of } = about.images;
  const hidden = largestOfMaps(values[layer], array("hidden").shape[1]);
  const part = count < of ? `, a part of the split’s ${of}` : "";
  return make(
    "article",
    {},
    make("h2", {}, "Nearest images"),
    make(
      "p",
      { class: "soft" },
      `Figure 4 of the paper: the nearest of ${count} images${part}, by the values of ${layer} ` +
        "and by pixels (averages of 16 × 16 squares), Euclidean distance.",
    ),
    make("h3", {}, `by ${layer}`),
    rowOf(nearest(hidden, array("hidden"), own)),
    make("h3", {}, "by pixels"),
    rowOf(nearest(thumbnail(crop), array("thumbnails"), own)),
  );
}

/** The largest value in each unit's map. */
function largestOfMaps(values, units) {
  const size = values.length / units;
  return Float32Array.from({ length: units }, (_, i) =>
    values.subarray(i * size, (i + 1) * size).reduce((a, b) => Math.max(a, b)),
  );
}

/** The nearest rows of an array, that of the image itself left out: [number, distance]. */
export function nearest(vector, vectors, own) {
  const distances = Array.from({ length: vectors.shape[0] }, (_, i) => {
    const other = row(vectors, i);
    let sum = 0;
    for (let j = 0; j < vector.length; j++) sum += (vector[j] - other[j]) ** 2;
    return [i, Math.sqrt(sum)];
  });
  const others = distances.filter(([number]) => number !== own);
  return others.sort((a, b) => a[1] - b[1]).slice(0, NEAREST);
}

function rowOf(found) {
  const labels = array("labels").values;
  const figures = found.map(([number, distance]) => {
    const name = about.classes[labels[number]];
    const picture = make("img", { src: imageAddress("images", number), alt: name });
    return make("figure", {}, picture, make("figcaption", {}, `${name}, ${short(distance)}`));
  });
  return make("div", { class: "nearest" }, ...figures);
}
