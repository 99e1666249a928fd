// What Python has put into the page: values as JSON, and numbers and images as bytes.

/** The plan of the network, its classes and so on: `about` of contents.py. */
export const about = JSON.parse(document.getElementById("about").textContent);

/** Decode one of the page's blobs. */
export async function blob(name) {
  const element = document.getElementById(`blob-${name}`);
  const bytes = fromBase64(element.textContent.trim());
  // The text is four times as large as it looks, and nobody reads it again.
  element.remove();
  if (element.dataset.gzip === undefined) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

let bytes = null;

/** Decode the numbers and images; everything below needs it. */
export async function openData() {
  bytes = await blob("data");
}

/** An array by name: its numbers in one row, and its shape. */
export function array(name) {
  const [dtype, shape, offset] = about.index[name];
  const count = shape.reduce((a, b) => a * b, 1);
  const start = bytes.byteOffset + offset;
  const kinds = { float32: Float32Array, uint16: Uint16Array, uint8: Uint8Array };
  if (dtype !== "float16") return { values: new kinds[dtype](bytes.buffer, start, count), shape };
  const halves = new Uint16Array(bytes.buffer, start, count);
  return { values: Float32Array.from(halves, fromHalf), shape };
}

/** The rows of an array, each a view of its numbers. */
export function row(array, index) {
  const length = array.values.length / array.shape[0];
  return array.values.subarray(index * length, (index + 1) * length);
}

function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

const addresses = new Map();

/** The address of an image file of the page, for an <img>. */
export function imageAddress(name, number) {
  const key = `${name} ${number}`;
  if (!addresses.has(key)) addresses.set(key, URL.createObjectURL(imageFile(name, number)));
  return addresses.get(key);
}

/** An image file of the page. */
export function imageFile(name, number) {
  const offsets = about.index[name];
  return new Blob([bytes.subarray(offsets[number], offsets[number + 1])]);
}

/** The operation of the plan with this name, or undefined. */
export function opOf(name) {
  return about.ops.find((op) => op.name === name);
}

/** Whether an operation gives maps, and not one number for each unit. */
export function hasMaps(op) {
  return op.shape[1] * op.shape[2] > 1;
}

/** In how many columns the values of an operation lie side by side. */
export function columnsOf(op) {
  const last = about.ops[about.ops.length - 1].layer;
  return op.layer === last || op.shape[0] % about.columns ? 1 : about.columns;
}

/** The address of a unit as a title; the units of the last layer are classes. */
export function titleOf(op, number) {
  const isClass = op === about.ops[about.ops.length - 1];
  return `${op.name}/${number}${isClass ? ` ${about.classes[number]}` : ""}`;
}

/** What a unit of an operation sees of the image, in words. */
export function seenBy(op) {
  const { size_px: size } = op.field;
  return size < about.input_px ? `sees ${size} × ${size} pixels` : "sees the whole image";
}
