// Try: what the model finds in pictures.

import { attempt, pictureOf, save, saveAddress, saveCanvas, tell } from "./api.js";
import { add, clear, current, onChange, pictures, showStrip, tableOf, withPart } from "./pictures.js";

const VIEWS = ["Outlines", "Masks", "Boxes", "Background", "Layers", "Attention"];
const SMALLEST = 768; // pixels of the longer side that small pictures are drawn at, so that lines are thin
const LARGEST = 1600;

const byId = (id) => document.getElementById(id);
const canvas = byId("view");
let view = "Outlines";
let object = null; // id of the object that alone is shown, null: all
let drawing = 0;

export function startTry() {
  byId("views").append(
    ...VIEWS.map((name) => {
      const label = document.createElement("label");
      const input = document.createElement("input");
      Object.assign(input, { type: "radio", name: "view", value: name, checked: name === view, className: "unseen" });
      input.addEventListener("change", () => {
        view = name;
        show();
      });
      label.append(input, name);
      return label;
    }),
  );
  for (const input of [byId("files"), byId("more")]) {
    input.addEventListener("change", async () => {
      const files = [...input.files];
      input.value = "";
      await add(files);
    });
  }
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", () => document.body.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    take([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => take([...event.clipboardData.files]));
  byId("clear").addEventListener("click", clear);
  byId("save-view").addEventListener("click", () => saveCanvas(canvas, `${stem()}_${view.toLowerCase()}.png`));
  byId("save-labels").addEventListener("click", () => saveAddress(current().found.labels, `${stem()}_mask.png`));
  byId("save-coco").addEventListener("click", () => attempt(async () => save(await tableOf(pictures, "coco"), "coco.json")));
  byId("save-csv").addEventListener("click", () => attempt(async () => save(await tableOf(pictures, "csv"), "objects.csv")));
  onChange(show);
}

function take(files) {
  if (!files.length) return;
  location.hash = "#try";
  add(files);
}

const stem = () => current().name.replace(/\.[^.]+$/, "");

function show() {
  byId("drop").hidden = pictures.length > 0;
  byId("tried").hidden = !pictures.length;
  showStrip(byId("try-strip"));
  const picture = current();
  if (!picture) return;
  const { objects } = picture.found;
  if (!objects.some((one) => one.id === object)) object = null;
  showObjects(objects);
  attempt(() => draw(picture));
}

function showObjects(objects) {
  const chip = (id, words, colour) => {
    const button = document.createElement("button");
    const dot = document.createElement("i");
    dot.style.background = colour;
    button.append(...(colour ? [dot] : []), words);
    button.ariaPressed = String(object === id);
    button.addEventListener("click", () => {
      object = id;
      show();
      byId("objects").querySelector("[aria-pressed=true]").focus();
    });
    return button;
  };
  const all = objects.length ? `All ${objects.length}` : "Nothing found";
  byId("objects").replaceChildren(chip(null, all), ...objects.map((one) => chip(one.id, `${one.id} · ${Math.round(100 * one.score)} %`, one.colour)));
}

async function draw(picture) {
  const turn = (drawing += 1);
  const { width, height, objects } = picture.found;
  const longest = Math.max(width, height);
  const factor = Math.min(LARGEST, Math.max(SMALLEST, longest)) / longest;
  const shown = objects.filter((one) => object === null || one.id === object);
  const below = view === "Background" ? [await pictureOf(picture.found.background)] : await drawnBelow(picture, shown);
  if (turn !== drawing) return; // another click came while it loaded
  canvas.width = Math.round(width * factor);
  canvas.height = Math.round(height * factor);
  canvas.ariaLabel = `${view} of ${picture.name}: ${objects.length} objects`;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  for (const image of view === "Attention" ? below.slice(0, 1) : below) context.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (view === "Outlines" || view === "Masks") tint(context, picture.labels, shown);
  if (view === "Boxes" || view === "Outlines") frame(context, shown, factor);
  if (view === "Attention") glow(context, below.slice(1));
}

/** The pictures under the lines of a view. */
async function drawnBelow(picture, shown) {
  if (view !== "Layers" && view !== "Attention") return [picture.image];
  tell("Drawing …");
  const part = await withPart(picture, view.toLowerCase());
  tell("");
  const wanted = picture.found.objects.map((one, index) => (shown.includes(one) ? part[index] : null)).filter(Boolean);
  const images = await Promise.all(wanted.map(pictureOf));
  return view === "Layers" ? images.reverse() : [picture.image, ...images]; // the front-most comes last
}

/** Colour the pixels of objects: their outlines strongly; what is inside a little, or wholly in the view of masks. */
function tint(context, labels, shown) {
  const { width, height } = context.canvas;
  const pixels = context.getImageData(0, 0, width, height);
  const colours = new Map(shown.map((one) => [one.id, [1, 3, 5].map((at) => parseInt(one.colour.slice(at, at + 2), 16))]));
  const columns = Int32Array.from({ length: width }, (_, x) => Math.floor((x * labels.width) / width));
  const rows = Int32Array.from({ length: height }, (_, y) => Math.floor((y * labels.height) / height) * labels.width);
  const reach = Math.max(2, Math.round(Math.max(width, height) / 300));
  const at = (x, y) => labels.values[rows[Math.min(height - 1, Math.max(0, y))] + columns[Math.min(width - 1, Math.max(0, x))]];
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const label = labels.values[rows[y] + columns[x]];
      const colour = colours.get(label);
      const place = 4 * (y * width + x);
      if (!colour) {
        if (view === "Masks") for (let i = 0; i < 3; i += 1) pixels.data[place + i] *= 0.35;
        continue;
      }
      const edge = at(x - reach, y) !== label || at(x + reach, y) !== label || at(x, y - reach) !== label || at(x, y + reach) !== label;
      const share = view === "Masks" ? 0.85 : edge ? 1 : 0.18;
      for (let i = 0; i < 3; i += 1) pixels.data[place + i] += share * (colour[i] - pixels.data[place + i]);
    }
  }
  context.putImageData(pixels, 0, 0);
}

/** Boxes in their view; numbers in that of outlines too. */
function frame(context, shown, factor) {
  const size = Math.max(14, Math.round(Math.max(context.canvas.width, context.canvas.height) / 36));
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.lineJoin = "round";
  for (const one of shown) {
    const [x, y, width, height] = one.box.map((value) => value * factor);
    if (view === "Boxes") {
      context.lineWidth = size / 6;
      context.strokeStyle = one.colour;
      context.strokeRect(x, y, width, height);
    }
    const [across, down] = view === "Boxes" ? [x + size / 3, y + size] : [x + width / 2 - size / 4, y + height / 2 + size / 3];
    context.lineWidth = size / 5;
    context.strokeStyle = "#222";
    context.strokeText(one.id, across, down);
    context.fillStyle = "#fff";
    context.fillText(one.id, across, down);
  }
}

/** Attention: the picture, dark but where the encoder looked. */
function glow(context, maps) {
  const { width, height } = context.canvas;
  const light = new OffscreenCanvas(width, height);
  const mixed = light.getContext("2d");
  mixed.globalCompositeOperation = "lighter";
  mixed.fillStyle = "#383838";
  mixed.fillRect(0, 0, width, height);
  for (const map of maps) mixed.drawImage(map, 0, 0, width, height);
  context.globalCompositeOperation = "multiply";
  context.drawImage(light, 0, 0);
}
