// The page: one image, its answers, and the views of it by address.
import { about, addressed, imageAddress, imageFile, openData } from "./data.js";
import { bars, make, percent } from "./draw.js";
import { inputOf, seenPixels, storedImage } from "./image.js";
import { average, best, openNetwork, probabilitiesOf, softmax, valuesOf } from "./network.js";
import { layersView } from "./layers.js";
import { unitOf, unitView } from "./unit.js";
import { lrnDifference, normalisationView } from "./normalisation.js";
import { cropsView } from "./crops.js";
import { covered, occlusionView, startsOf } from "./occlusion.js";
import { neighboursView } from "./neighbours.js";
import { trainingView } from "./training.js";

const find = (id) => document.getElementById(id);

// What is known of the present image; null until there is one, and without values until the network
// is there.
let current = null;
// Settled when the network is there, or cannot be.
let network = null;
let isOpen = false;
// The number of the latest image: others that wait for the network are not looked at.
let latest = 0;
// The number of the latest file, whether it can be decoded or not.
let chosen = 0;

/** Look at a stored image, which was decoded in `decodingMs`. */
async function look(stored, name, own, decodingMs) {
  const number = ++latest;
  const file = chosen;
  const image = { name, own, stored, values: null, answers: null, average: null };
  if (!isOpen) {
    current = image;
    drawImage();
    show();
    await network;
    if (number !== latest) return;
  }
  const start = performance.now() - decodingMs;
  image.input = inputOf(stored, about.centre);
  image.values = await valuesOf(image.input);
  image.uncovered = softmax(image.values[about.ops[about.ops.length - 1].name]);
  image.crop = seenPixels(stored, about.centre);
  current = image;
  drawImage();
  drawAnswers(image.uncovered, about.crops.length > 1 ? "center crop" : "");
  show();
  image.firstAnswerMs = performance.now() - start;
  await answerCrops(image);
  // What was wrong since, such as a file that is not an image, has its own sentence.
  if (file === chosen && !find("status").classList.contains("wrong"))
    say(`${name}: answered in ${Math.round(image.firstAnswerMs)} ms`);
}

/** Average the answers to the test crops, one by one so that the page stays alive. */
async function answerCrops(image) {
  const answers = [];
  for (const crop of about.crops) {
    // The network computes on the page's own thread: without a pause the answer to the center crop
    // would be shown after those to all crops.
    await new Promise((resume) => setTimeout(resume));
    if (image !== current) return;
    answers.push((await probabilitiesOf([inputOf(image.stored, crop)]))[0]);
  }
  if (image !== current) return;
  image.answers = answers;
  image.average = average(answers);
  drawAnswers(image.average, answers.length > 1 ? `average of ${answers.length} crops` : "");
  if (location.hash === "#crops") show();
}

function say(text, wrong = false) {
  find("status").textContent = text;
  find("status").classList.toggle("wrong", wrong);
}

/** The stored image as a canvas. */
function storedCanvas(image) {
  const px = about.stored_px;
  const canvas = new OffscreenCanvas(px, px);
  const pixels = new ImageData(px, px);
  for (let i = 0; i < px * px; i++) {
    pixels.data.set(image.stored.subarray(i * 3, i * 3 + 3), i * 4);
    pixels.data[i * 4 + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

/** What the network sees of the image, as a canvas of input_px. */
function cropCanvas(image) {
  const canvas = new OffscreenCanvas(about.input_px, about.input_px);
  canvas.getContext("2d").putImageData(image.crop, 0, 0);
  return canvas;
}

function drawImage() {
  const canvas = find("image");
  const scale = 3;
  canvas.width = canvas.height = about.stored_px * scale;
  const context = canvas.getContext("2d");
  context.drawImage(storedCanvas(current), 0, 0, canvas.width, canvas.height);
  // What lies outside of the center crop is not seen.
  const [top, left] = about.centre.map((value) => value * scale);
  const side = about.crop_px * scale;
  context.fillStyle = "rgb(255 255 255 / 0.55)";
  context.beginPath();
  context.rect(0, 0, canvas.width, canvas.height);
  context.rect(left, top, side, side);
  context.fill("evenodd");
}

function drawAnswers(p, what) {
  const rows = best(p).map((c) => [about.classes[c], p[c], percent(p[c])]);
  find("answers").replaceChildren(bars(rows), make("p", { class: "soft" }, what));
}

const VIEWS = {
  training: () => trainingView(),
  layers: (width) => layersView(current.values, width),
  normalization: () => normalisationView(current.values),
  crops: () =>
    current.answers
      ? cropsView(current.stored, storedCanvas(current), current.answers, current.average)
      : make("p", {}, "One moment …"),
  occlusion: () => occlusionView(current.input, cropCanvas(current), current.uncovered),
  nearest: () => neighboursView(current.values, current.crop, current.own),
};

/** Show the view that the address names. */
function show() {
  const address = addressed(location.hash);
  const unit = unitOf(address);
  // Not `in`, which is true of `toString` too.
  const isView = Object.hasOwn(VIEWS, address);
  const name = isView ? address : "layers";
  for (const link of document.querySelectorAll("nav a"))
    if (link.hash === `#${name}` && !unit) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  const view = find("view");
  // The training has nothing to do with the image: its slider stays where it is.
  if (name === "training" && view.querySelector(".training")) return;
  if (name !== "training" && !current?.values) {
    view.replaceChildren(make("p", { class: "soft" }, "The network is being loaded."));
    return;
  }
  const width = view.clientWidth;
  // The arrow to the next unit keeps the keyboard's focus, although it is made anew.
  const arrow = view.contains(document.activeElement) ? document.activeElement.rel : "";
  view.replaceChildren(
    unit ? unitView(unit, current.values, cropCanvas(current)) : VIEWS[name](width),
  );
  if (unit && arrow) view.querySelector(`a[rel=${arrow}]`).focus({ preventScroll: true });
  if (!unit && !isView) say(`There is no unit ${address}.`, true);
}

/** Look at an image file (a Blob, a File), and say it where that is not possible. */
async function tryLook(file, name, own = null) {
  // Before, the status is about the network.
  if (isOpen) say(`${name} …`);
  const start = performance.now();
  // Another image may be chosen while this one is decoded.
  const number = ++chosen;
  let stored;
  try {
    stored = await storedImage(file);
  } catch (error) {
    // The browser's decoder says no more than that it failed.
    if (!(error instanceof DOMException)) throw error;
    // Until the network is there, the status is about it.
    await network;
    if (number === chosen) say(`${name} is not an image that this browser can decode.`, true);
    return;
  }
  if (number !== chosen) return;
  await look(stored, name, own, performance.now() - start);
}

function examples() {
  about.examples.forEach((number, i) => {
    const name = `example ${i + 1}`;
    const picture = make("img", { src: imageAddress("examples", i), alt: name });
    const choose = () => example(i);
    find("examples").append(make("button", { onclick: choose, title: name }, picture));
  });
}

function example(i) {
  return tryLook(imageFile("examples", i), `example ${i + 1}`, about.examples[i]);
}

function listen() {
  find("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) tryLook(file, file.name);
    // The same file can be chosen again.
    event.target.value = "";
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  addEventListener("dragleave", () => document.body.classList.remove("dragging"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    const [file] = event.dataTransfer.files;
    if (file) tryLook(file, file.name);
    else say("Drop an image file; a link cannot be loaded from here.", true);
  });
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) tryLook(file, "pasted image");
  });
  addEventListener("hashchange", () => {
    show();
    scrollTo(0, Math.min(scrollY, find("view").offsetTop - 60));
  });
  let width = innerWidth;
  addEventListener("resize", () => {
    // A phone resizes the page whenever its bars move; only the width counts.
    if (width !== innerWidth) show();
    width = innerWidth;
  });
  find("camera").addEventListener("click", toggleCamera);
}

let stream = null;
// Set while the browser asks the reader and until the first picture is there: a second press would
// start a stream that nothing stops. A disabled button would lose the keyboard's focus.
let isStarting = false;

/** Start the camera, or take the image that it shows. */
async function toggleCamera() {
  if (isStarting) return;
  const video = find("video");
  if (stream) {
    const still = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    still.getContext("2d").drawImage(video, 0, 0);
    stopCamera();
    await tryLook(await still.convertToBlob(), "camera");
    return;
  }
  isStarting = true;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    video.srcObject = stream;
    video.hidden = false;
    await video.play();
    find("camera").textContent = "Take it";
  } catch {
    stopCamera();
    say("The browser gives no camera to this page.", true);
  } finally {
    isStarting = false;
  }
}

function stopCamera() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  find("video").srcObject = null;
  find("video").hidden = true;
  find("camera").textContent = "Camera";
}

// For tests, and for readers with a console.
window.explorer = {
  about,
  current: () => current,
  covered,
  probabilitiesOf,
  lrnDifference,
  startsOf,
};

try {
  await openData();
  examples();
  listen();
  network = openNetwork(say);
  network = network.then(() => { isOpen = true; });
  await example(about.start);
  // It has returned before the network is there if the reader has chosen another image.
  await network;
  window.explorer.readyMs = performance.now();
} catch (error) {
  say(`This page cannot run the network: ${error.message}`, true);
  throw error;
}
