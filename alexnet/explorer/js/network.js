// The network: one session of ONNX Runtime Web whose outputs are the values of all operations.
import { about, blob, fromBase64 } from "./data.js";

let ort = null;
let session = null;

// A network that returns its input, as ONNX.
const IDENTITY =
  "CAo6NwoQCgF4EgF5IghJZGVudGl0eRIBZ1oPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEBI=";

/** Start the network; `say` is called with what is being done. */
export async function openNetwork(say) {
  const [script, wasm] = await Promise.all([blob("ort"), blob("wasm")]);
  const address = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  ort = await import(address);
  ort.env.wasm.wasmBinary = wasm.buffer;
  // A page from disk may not share memory between threads.
  ort.env.wasm.numThreads = 1;
  const options = { executionProviders: ["wasm"] };
  // A first session of any network makes the browser compile the program, beside the page's own
  // thread, which decodes the model meanwhile.
  const compiled = ort.InferenceSession.create(fromBase64(IDENTITY), options);
  const model = await blob("model", (share) =>
    say(`Loading the network: ${Math.round(100 * share)} %`),
  );
  await compiled;
  say("Starting the network …");
  // The browser shows it before the page's thread is busy.
  await new Promise((resume) => setTimeout(resume, 20));
  session = await ort.InferenceSession.create(model, options);
}

// A session computes one batch at a time.
let last = Promise.resolve();

/** Compute the values of some operations for several inputs: by name, one row of numbers. */
export function run(inputs, names) {
  const result = last.then(() => compute(inputs, names));
  last = result.catch(() => {});
  return result;
}

async function compute(inputs, names) {
  const { input_px: px } = about;
  const size = 3 * px * px;
  const x = new Float32Array(inputs.length * size);
  inputs.forEach((input, i) => x.set(input, i * size));
  const fed = { x: new ort.Tensor("float32", x, [inputs.length, 3, px, px]) };
  const outputs = await session.run(fed, names);
  return Object.fromEntries(names.map((name) => [name, outputs[name].data]));
}

/** The values of all operations for one input. */
export function valuesOf(input) {
  return run([input], about.ops.map((op) => op.name));
}

/** The probabilities of the classes for several inputs, a row for each. */
export async function probabilitiesOf(inputs) {
  const name = about.ops[about.ops.length - 1].name;
  const logits = (await run(inputs, [name]))[name];
  const count = about.classes.length;
  return inputs.map((_, i) => softmax(logits.subarray(i * count, (i + 1) * count)));
}

export function softmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(logits, (v) => Math.exp(v - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((v) => v / sum);
}

/** The average of several rows of probabilities. */
export function average(rows) {
  return rows[0].map((_, c) => rows.reduce((sum, row) => sum + row[c], 0) / rows.length);
}

/** The most probable classes, most probable first. */
export function best(probabilities, most = 5) {
  const order = Array.from(probabilities.keys());
  return order.sort((a, b) => probabilities[b] - probabilities[a]).slice(0, most);
}
