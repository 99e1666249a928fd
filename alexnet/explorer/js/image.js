// From a file to the input of the network, as `alexnet predict` does it.
//
// The central square is rescaled with Pillow's bicubic filter, written out here with its integer
// arithmetic: a canvas would rescale in its own way, and the values of every layer would differ.
import { about, array } from "./data.js";

/** Decode an image file. Returns a stored image: stored_px * stored_px * 3 bytes, RGB. */
export async function storedImage(file) {
  // Upright as EXIF says, and without a conversion of colors, which the training had none of. The
  // colors of transparent pixels are lost all the same: a 2D canvas keeps them multiplied by alpha.
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(file, options);
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  return centreSquare(rgba, width, height, about.stored_px);
}

/** Rescale the shorter side to `size` and take the central square: `centre_square` in image.py. */
export function centreSquare(rgba, width, height, size) {
  const short = Math.min(width, height);
  if (width === size && height === size) return withoutAlpha(rgba, size * size);
  const columns = weights(width, (width - short) / 2, (width + short) / 2, size);
  const rows = weights(height, (height - short) / 2, (height + short) / 2, size);
  // Rows that nothing is read from are not rescaled.
  const first = rows[0].first;
  const last = rows[size - 1].first + rows[size - 1].factors.length;
  const narrow = new Uint8Array((last - first) * size * 3);
  for (let y = first; y < last; y++)
    for (let x = 0; x < size; x++) {
      const { first: from, factors } = columns[x];
      for (let c = 0; c < 3; c++) {
        let sum = HALF;
        for (let i = 0; i < factors.length; i++)
          sum += rgba[(y * width + from + i) * 4 + c] * factors[i];
        narrow[((y - first) * size + x) * 3 + c] = clipped(sum);
      }
    }
  const square = new Uint8Array(size * size * 3);
  for (let y = 0; y < size; y++) {
    const { first: from, factors } = rows[y];
    for (let x = 0; x < size * 3; x++) {
      let sum = HALF;
      for (let i = 0; i < factors.length; i++)
        sum += narrow[(from - first + i) * size * 3 + x] * factors[i];
      square[y * size * 3 + x] = clipped(sum);
    }
  }
  return square;
}

// Pillow computes with whole numbers of this unit.
const UNIT = 2 ** 22;
const HALF = UNIT / 2;

function clipped(sum) {
  return Math.max(0, Math.min(255, Math.floor(sum / UNIT)));
}

function withoutAlpha(rgba, count) {
  const rgb = new Uint8Array(count * 3);
  for (let i = 0; i < count; i++) for (let c = 0; c < 3; c++) rgb[i * 3 + c] = rgba[i * 4 + c];
  return rgb;
}

/** The factors of the pixels that each pixel of a rescaled row is the sum of. */
function weights(length, from, to, size) {
  const scale = (to - from) / size;
  // Where it shrinks, the filter is as wide as the pixels of the result.
  const width = Math.max(scale, 1);
  const support = 2 * width;
  return Array.from({ length: size }, (_, i) => {
    const centre = from + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(length, Math.trunc(centre + support + 0.5));
    const factors = new Float64Array(last - first);
    for (let j = 0; j < factors.length; j++)
      factors[j] = bicubic((j + first - centre + 0.5) / width);
    const sum = factors.reduce((a, b) => a + b, 0);
    return { first, factors: factors.map((f) => rounded((f / sum) * UNIT)) };
  });
}

function rounded(value) {
  return Math.trunc(value < 0 ? value - 0.5 : value + 0.5);
}

function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/** The input of the network for a crop of a stored image: 3 * input_px * input_px numbers. */
export function inputOf(stored, crop) {
  const { input_px: px, mean_moves: moves } = about;
  const mean = array("mean").values;
  const result = new Float32Array(3 * px * px);
  const value = (at, c) => stored[at * 3 + c] - (moves ? mean[at * 3 + c] : 0);
  sample(crop, value, (at, c, v) => {
    if (!moves) v -= mean[at * 3 + c];
    result[c * px * px + at] = about.deviation ? v / about.deviation[c] : v;
  });
  return result;
}

/** What the network sees of a crop as an image for a canvas: `centre_pixels` in preprocess.py. */
export function seenPixels(stored, crop) {
  const image = new ImageData(about.input_px, about.input_px);
  image.data.fill(255);
  const value = (at, c) => stored[at * 3 + c];
  // The array rounds as PyTorch does, to the even of two equally near numbers.
  sample(crop, value, (at, c, v) => { image.data[at * 4 + c] = v; });
  return image;
}

/**
 * Rescale a crop to the size of the input. `value` gives a channel of a pixel of the stored image,
 * and `receive` takes one of the result; pixels are numbered row by row.
 */
function sample([top, left, reflected], value, receive) {
  const { input_px: px, stored_px: storedPx, crop_px: cropPx } = about;
  const scale = cropPx / px;
  const place = (index, first) =>
    Math.max(0, Math.min(storedPx - 1, first + (index + 0.5) * scale - 0.5));
  for (let y = 0; y < px; y++)
    for (let x = 0; x < px; x++) {
      const row = place(y, top);
      const column = place(reflected ? px - 1 - x : x, left);
      const [y0, x0] = [Math.floor(row), Math.floor(column)];
      const [dy, dx] = [row - y0, column - x0];
      const down = dy ? storedPx : 0;
      const right = dx ? 1 : 0;
      const at = y0 * storedPx + x0;
      for (let c = 0; c < 3; c++) {
        let v = value(at, c);
        // Only crops of another size than the input lie between pixels.
        if (dy || dx)
          v =
            (1 - dy) * ((1 - dx) * v + dx * value(at + right, c)) +
            dy * ((1 - dx) * value(at + down, c) + dx * value(at + down + right, c));
        receive(y * px + x, c, v);
      }
    }
}

/** The pixels of a crop before it is rescaled, as an image for a canvas. */
export function cropPixels(stored, [top, left, reflected]) {
  const { crop_px: px, stored_px: storedPx } = about;
  const image = new ImageData(px, px);
  for (let y = 0; y < px; y++)
    for (let x = 0; x < px; x++) {
      const at = (top + y) * storedPx + left + (reflected ? px - 1 - x : x);
      image.data.set(stored.subarray(at * 3, at * 3 + 3), (y * px + x) * 4);
      image.data[(y * px + x) * 4 + 3] = 255;
    }
  return image;
}

/** Averages of a crop in 16x16 squares: `thumbnail` in contents.py. */
export function thumbnail(image) {
  const { thumbnail_px: side } = about;
  const px = image.width;
  const start = (i) => Math.floor((i * px) / side);
  const result = new Float32Array(side * side * 3);
  for (let row = 0; row < side; row++)
    for (let column = 0; column < side; column++) {
      let count = 0;
      const sums = [0, 0, 0];
      for (let y = start(row); y < start(row + 1); y++)
        for (let x = start(column); x < start(column + 1); x++, count++)
          for (let c = 0; c < 3; c++) sums[c] += image.data[(y * px + x) * 4 + c];
      for (let c = 0; c < 3; c++)
        result[(row * side + column) * 3 + c] = Math.floor(sums[c] / count + 0.5);
    }
  return result;
}
