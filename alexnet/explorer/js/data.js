// What Python has put into the page: values as JSON, and numbers and images as bytes.

/** The plan of the network, its classes and so on: `about` of contents.py. */
export const about = JSON.parse(document.getElementById("about").textContent);

/**
 * Decode one of the page's blobs; `progress` is called with the share of its pieces that is there.
 */
export async function blob(name, progress = () => {}) {
  const { pieces, bytes: size, gzip } = about.blobs[name];
  const bytes = pieces.length ? await joined(pieces, size, progress) : await inside(name);
  if (!gzip) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A blob of the page of one file. */
async function inside(name) {
  const isWhole = () => document.getElementById(`blob-${name}`)?.nextElementSibling;
  if (document.readyState === "loading" && !isWhole())
    await new Promise((resolve) => addEventListener("DOMContentLoaded", resolve));
  const element = document.getElementById(`blob-${name}`);
  const bytes = fromBase64(element.textContent);
  // The text is larger than the bytes, and nobody reads it again.
  element.remove();
  return bytes;
}

/** A blob that lies beside the page, in pieces. */
async function joined(pieces, size, progress) {
  const bytes = new Uint8Array(size);
  let length = 0;
  for (const [i, file] of pieces.entries()) {
    progress(i / pieces.length);
    // One at a time: a piece is text of many megabytes until it is decoded.
    const part = fromBase64(await textOf(file));
    bytes.set(part, length);
    length += part.length;
  }
  progress(1);
  return bytes;
}

const received = new Map();

// Each piece is a script that calls this: a page from disk may load nothing else. Its text is the
// comment inside a function.
window.receivePiece = (file, holder) => {
  const source = String(holder);
  received.set(file, source.slice(source.indexOf("/*") + 2, source.lastIndexOf("*/")));
};

/** The text of a piece. */
async function textOf(file) {
  const script = document.createElement("script");
  script.src = file;
  await new Promise((resolve) => {
    script.onload = script.onerror = resolve;
    document.head.append(script);
  });
  script.remove();
  const text = received.get(file);
  received.delete(file);
  if (text === undefined)
    throw new Error(`${file}, one of the files beside this page, is missing or damaged`);
  return text;
}

export function fromBase64(text) {
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

/** The address of a unit, in which a name may have a % and any other letter. */
export function addressOf(name, number) {
  return `#${encodeURIComponent(name)}/${number}`;
}

/** What an address names; a link that was cut may not be one that can be decoded. */
export function addressed(hash) {
  const address = hash.slice(1) || "layers";
  try {
    return decodeURIComponent(address);
  } catch {
    return address;
  }
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
