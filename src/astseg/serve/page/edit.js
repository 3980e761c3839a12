// Edit the scene: the objects of a picture as things to move, and the picture drawn anew by the model.

import { attempt, Failure, labelsOf, pictureOf, post, save, saveCanvas, tell } from "./api.js";
import { chosen, current, onChange, showStrip } from "./pictures.js";

const HANDLE = 9; // pixels of the screen
const STEP = 2 / 64; // of an arrow key; the picture is 2 wide
const GROWTH = 1.1; // of a + key
const APART = 0.15; // how far a copy lies from its original

const byId = (id) => document.getElementById(id);
const canvas = byId("scene-view");

/** What is edited: a scene for each picture, and its past and future. A scene file has no picture. */
const drafts = new Map();
let draft = null; // {scene, undo, redo, original, name}
let selected = []; // indices of objects
let shown = null; // {image, labels} as last drawn
let drag = null;
let copied = [];
let isSwapping = false; // the next object that is clicked swaps looks with the selected one
let isDrawing = false;
let isStale = false;

const TOOLS = [
  // [id, words, keys, work, how many must be selected]
  ["undo", "Undo", "ctrl+z", () => travel("undo", "redo"), 0],
  ["redo", "Redo", "ctrl+y", () => travel("redo", "undo"), 0],
  ["duplicate", "Duplicate", "d", duplicate, 1],
  ["delete", "Delete", "delete", () => change((objects) => objects.filter((_, i) => !selected.includes(i)), []), 1],
  ["front", "To front", "f", () => reorder(true), 1],
  ["back", "To back", "b", () => reorder(false), 1],
  ["swap", "Swap looks", "s", swap, 1],
  ["copy", "Copy", "ctrl+c", copy, 1],
  ["paste", "Paste", "ctrl+v", paste, 0],
  ["empty", "Empty", "", () => change(() => [], []), 0],
  ["reset", "Reset", "", () => change(() => draft.original.objects, []), 0],
];

export function startEdit() {
  byId("tools").append(
    ...TOOLS.map(([id, words, keys, work]) => {
      const button = document.createElement("button");
      button.id = `tool-${id}`;
      button.textContent = words;
      if (keys) button.title = `${words} (${keys})`;
      button.addEventListener("click", () => {
        work();
        canvas.focus();
      });
      return button;
    }),
  );
  canvas.addEventListener("pointerdown", press);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("wheel", turn, { passive: false });
  canvas.addEventListener("keydown", key);
  byId("save-picture").addEventListener("click", savePicture);
  byId("save-scene").addEventListener("click", () =>
    save(new Blob([JSON.stringify(draft.scene)], { type: "application/json" }), `${draft.name}_scene.json`),
  );
  for (const input of [byId("open-scene"), byId("open-other")]) {
    input.addEventListener("change", async () => {
      const [file] = input.files;
      input.value = "";
      if (file) await attempt(() => open(file));
    });
  }
  onChange(() => {
    const picture = current();
    showStrip(byId("edit-strip"));
    if (!picture) return begin(null);
    if (!drafts.has(picture)) drafts.set(picture, newDraft(picture.found.scene, picture.name.replace(/\.[^.]+$/, "")));
    if (draft !== drafts.get(picture)) begin(drafts.get(picture));
  });
}

const newDraft = (scene, name) => ({ scene, original: scene, name, undo: [], redo: [] });

async function open(file) {
  let scene;
  try {
    scene = JSON.parse(await file.text());
  } catch {
    throw new Failure(0, `${file.name} is no scene file`);
  }
  await post("render", scene); // refuses what is no scene of this model
  chosen.index = -1;
  showStrip(byId("edit-strip"));
  begin(newDraft(scene, file.name.replace(/(_scene)?\.json$/, "")));
  tell("");
}

function begin(next) {
  draft = next;
  selected = [];
  isSwapping = false;
  shown = null;
  byId("scene").hidden = !draft;
  byId("no-scene").hidden = Boolean(draft);
  if (draft) render();
}

// Changes ---------------------------------------------------------------------------------------------------------

/** Objects are never changed in place, so that the past is a list of scenes. */
function change(work, select = selected) {
  draft.undo.push(draft.scene);
  draft.redo = [];
  set(work(draft.scene.objects), select);
}

function set(objects, select = selected) {
  draft.scene = { ...draft.scene, objects };
  selected = select;
  render();
}

function travel(from, to) {
  if (!draft[from].length) return;
  draft[to].push(draft.scene);
  draft.scene = draft[from].pop();
  selected = [];
  render();
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const onSelected = (work) => (objects) => objects.map((one, i) => (selected.includes(i) ? work(one) : one));
const moved = (dx, dy) => (one) => ({ ...one, position: [clamp(one.position[0] + dx, -1.5, 1.5), clamp(one.position[1] + dy, -1.5, 1.5)] });
const grown = (factor) => (one) => ({ ...one, scale: one.scale.map((value) => clamp(value / factor, 0.5, 40)) });
const chosenOnes = () => selected.map((i) => draft.scene.objects[i]);

function insert(ones) {
  const count = draft.scene.objects.length;
  change((objects) => [...objects, ...ones.map(moved(APART, APART))], ones.map((_, i) => count + i));
}

function duplicate() {
  insert(chosenOnes());
}

function copy() {
  copied = chosenOnes();
  tell(copied.length === 1 ? "Copied; paste it here or into another picture" : "Copied");
  showTools();
}

function paste() {
  if (copied.length) insert(copied);
}

function reorder(toFront) {
  const others = draft.scene.objects.filter((_, i) => !selected.includes(i)).map((one) => one.activation);
  if (!others.length) return;
  const edge = toFront ? Math.max(...others) + 3 : Math.max(0.5, Math.min(...others) - 3);
  change((objects) => {
    const raised = toFront ? objects : objects.map((one, i) => (selected.includes(i) ? one : { ...one, activation: Math.max(one.activation, edge + 3) }));
    return raised.map((one, i) => (selected.includes(i) ? { ...one, activation: clamp(edge, -90, 90) } : one));
  });
}

function swap() {
  isSwapping = selected.length === 1;
  if (isSwapping) return tell("Click the object to swap with");
  const [a, b] = selected;
  change((objects) => objects.map((one, i) => (i === a || i === b ? { ...one, appearance: objects[i === a ? b : a].appearance } : one)));
}

// Pointer and keys ------------------------------------------------------------------------------------------------

/** Where a pointer is, in [-1, 1]. */
function place(event) {
  const box = canvas.getBoundingClientRect();
  return [(2 * (event.clientX - box.left)) / box.width - 1, (2 * (event.clientY - box.top)) / box.height - 1];
}

function objectAt([x, y]) {
  const { width, height, values } = shown.labels;
  const [column, row] = [Math.floor(((x + 1) / 2) * width), Math.floor(((y + 1) / 2) * height)];
  return values[clamp(row, 0, height - 1) * width + clamp(column, 0, width - 1)] - 1;
}

function press(event) {
  if (!shown) return;
  canvas.setPointerCapture(event.pointerId);
  const at = place(event);
  const reach = (2 * HANDLE * 1.5) / canvas.getBoundingClientRect().width;
  const corner = selected.length === 1 && corners(boxOf(selected[0])).some(([x, y]) => Math.hypot(x - at[0], y - at[1]) < reach);
  const hit = objectAt(at);
  if (isSwapping) {
    isSwapping = false;
    tell("");
    if (hit >= 0 && hit !== selected[0]) {
      selected = [selected[0], hit];
      swap();
      return;
    }
  }
  if (!corner) {
    if (event.shiftKey) selected = hit < 0 || selected.includes(hit) ? selected.filter((i) => i !== hit) : [...selected, hit];
    else if (hit < 0) selected = [];
    else if (!selected.includes(hit)) selected = [hit];
  }
  drag = selected.length ? { at, corner, before: draft.scene, objects: draft.scene.objects, isMoved: false } : null;
  paint();
}

function move(event) {
  if (!drag) return;
  const at = place(event);
  const [dx, dy] = [at[0] - drag.at[0], at[1] - drag.at[1]];
  if (!drag.isMoved && Math.hypot(dx, dy) < 0.01) return;
  drag.isMoved = true;
  const centre = drag.objects[selected[0]].position;
  const away = ([x, y]) => Math.max(0.02, Math.hypot(x - centre[0], y - centre[1]));
  set(onSelected(drag.corner ? grown(away(at) / away(drag.at)) : moved(dx, dy))(drag.objects));
}

function release() {
  if (drag?.isMoved) {
    draft.undo.push(drag.before);
    draft.redo = [];
    showTools();
  }
  drag = null;
}

function turn(event) {
  if (!selected.length) return;
  event.preventDefault();
  change(onSelected(grown(event.deltaY < 0 ? GROWTH : 1 / GROWTH)));
}

function key(event) {
  const name = `${event.ctrlKey || event.metaKey ? "ctrl+" : ""}${event.key.toLowerCase()}`;
  const tool = TOOLS.find(([, , keys]) => keys && (keys === name || (keys === "delete" && name === "backspace")));
  const arrow = { arrowleft: [-STEP, 0], arrowright: [STEP, 0], arrowup: [0, -STEP], arrowdown: [0, STEP] }[name];
  const count = draft.scene.objects.length;
  if (tool) {
    if (!byId(`tool-${tool[0]}`).disabled) tool[3]();
  } else if (arrow && selected.length) change(onSelected(moved(...arrow)));
  else if ("+=-".includes(name) && selected.length) change(onSelected(grown(name === "-" ? 1 / GROWTH : GROWTH)));
  else if ((name === "n" || name === "p") && count) {
    const step = name === "n" ? 1 : -1;
    selected = [selected.length ? (selected[0] + step + count) % count : 0];
    paint();
  } else if (name === "escape") {
    selected = [];
    paint();
  } else return;
  event.preventDefault();
}

// Drawing ---------------------------------------------------------------------------------------------------------

/** One drawing is under way at a time; what changes meanwhile is drawn after it. */
async function render() {
  showTools();
  isStale = true;
  if (isDrawing) return;
  isDrawing = true;
  await attempt(async () => {
    while (isStale) {
      isStale = false;
      const of = draft;
      const drawn = await post("render", draft.scene);
      const [image, labels] = await Promise.all([pictureOf(drawn.picture), labelsOf(drawn.labels)]);
      if (of !== draft) continue;
      shown = { image, labels };
      paint();
    }
  });
  isDrawing = false;
}

function paint() {
  showTools();
  if (!shown) return;
  const { naturalWidth, naturalHeight } = shown.image;
  canvas.width = 1024;
  canvas.height = Math.round((1024 * naturalHeight) / naturalWidth);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(shown.image, 0, 0, canvas.width, canvas.height);
  canvas.ariaLabel = `Scene ${draft.name}: ${draft.scene.objects.length} objects, ${selected.length} selected`;
  const scale = canvas.width / canvas.getBoundingClientRect().width;
  for (const index of selected) {
    const points = corners(boxOf(index)).map(([x, y]) => [((x + 1) / 2) * canvas.width, ((y + 1) / 2) * canvas.height]);
    for (const [colour, width] of [["#000a", 4], ["#fff", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * scale;
      context.strokeRect(points[0][0], points[0][1], points[2][0] - points[0][0], points[2][1] - points[0][1]);
    }
    if (selected.length > 1) continue;
    for (const [x, y] of points) {
      context.fillStyle = "#fff";
      context.strokeStyle = "#000";
      context.lineWidth = scale;
      context.beginPath();
      context.arc(x, y, (HANDLE / 2) * scale, 0, 7);
      context.fill();
      context.stroke();
    }
  }
}

const corners = ([left, top, right, bottom]) => [[left, top], [right, top], [right, bottom], [left, bottom]];

/** The box of an object in [-1, 1]: of its pixels, or of its glimpse where it has none. */
function boxOf(index) {
  const { width, height, values } = shown.labels;
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let i = 0; i < values.length; i += 1) {
    if (values[i] !== index + 1) continue;
    const [x, y] = [i % width, Math.floor(i / width)];
    [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x + 1), Math.max(bottom, y + 1)];
  }
  const { position, scale } = draft.scene.objects[index];
  if (right < 0) return [position[0] - 0.5 / scale[0], position[1] - 0.5 / scale[1], position[0] + 0.5 / scale[0], position[1] + 0.5 / scale[1]];
  return [(2 * left) / width - 1, (2 * top) / height - 1, (2 * right) / width - 1, (2 * bottom) / height - 1];
}

function showTools() {
  const off = {
    undo: !draft?.undo.length,
    redo: !draft?.redo.length,
    paste: !copied.length,
    empty: !draft?.scene.objects.length,
    reset: draft?.scene.objects === draft?.original.objects,
    swap: selected.length < 1 || selected.length > 2,
  };
  for (const [id, , , , least] of TOOLS) byId(`tool-${id}`).disabled = off[id] ?? selected.length < least;
}

function savePicture() {
  const clean = document.createElement("canvas");
  [clean.width, clean.height] = [shown.image.naturalWidth, shown.image.naturalHeight];
  clean.getContext("2d").drawImage(shown.image, 0, 0);
  saveCanvas(clean, `${draft.name}_edited.png`);
}
