// The pictures that the person has given: what try.js and edit.js share.

import { ask, askJson, attempt, Failure, labelsOf, pictureOf, tell } from "./api.js";

const FRAMES = 12; // of a video
const AT_ONCE = 4; // requests; the server makes batches of them

export const pictures = [];
export const chosen = { index: 0 };
const changed = new EventTarget();
let given = 0; // pictures so far

export const onChange = (work) => changed.addEventListener("change", work);
export const tellChange = () => changed.dispatchEvent(new Event("change"));
export const current = () => pictures[chosen.index];

export function choose(index) {
  chosen.index = index;
  tellChange();
}

export function clear() {
  for (const picture of pictures) URL.revokeObjectURL(picture.address);
  pictures.length = 0;
  chosen.index = 0;
  tell("");
  tellChange();
}

/** Segment files, pictures or videos, and show them as they come. */
export async function add(files) {
  const waiting = [];
  for (const file of files) {
    if (file.type.startsWith("video/")) waiting.push(...((await attempt(() => framesOf(file))) ?? []));
    else waiting.push({ blob: file, name: file.name || "pasted.png" });
  }
  const total = waiting.length;
  if (!total) return;
  const first = given;
  for (const one of waiting) one.place = given++;
  const wrong = [];
  let done = 0;
  const work = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      tell(`Looking at ${total === 1 ? next.name : `${total} pictures, ${done} done`} …`);
      try {
        insert({ ...(await segmented(next)), place: next.place }, first);
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        wrong.push(error);
      }
      done += 1;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  tell("");
  if (wrong.length) await attempt(() => Promise.reject(wrong[0]));
}

/** Keep the order in which they were given, and show the first of the newest. */
function insert(picture, first) {
  const shown = current();
  pictures.push(picture);
  pictures.sort((a, b) => a.place - b.place);
  chosen.index = pictures.indexOf(shown && shown.place >= first && shown.place < picture.place ? shown : picture);
  tellChange();
}

async function segmented({ blob, name }) {
  const answer = await partsOf([{ blob, name }], ["labels", "background", "scene"]);
  const [found] = answer.pictures;
  const address = URL.createObjectURL(blob);
  const image = await pictureOf(address).catch(() => pictureOf(found.background)); // TIFF: browsers show none
  return { blob, name, address: image.src, image, found, labels: await labelsOf(found.labels) };
}

function form(some) {
  const body = new FormData();
  for (const { blob, name } of some) body.append("pictures", blob, name);
  return { method: "POST", body };
}

export const partsOf = (some, parts) => askJson(`segment?${parts.map((part) => `part=${part}`).join("&")}`, form(some));
export const tableOf = (some, kind) => ask(`segment?form=${kind}`, form(some)).then((answer) => answer.blob());

/** Layers and attention take long and are seldom wanted: they are asked for when they are. */
export async function withPart(picture, part) {
  if (!picture.found[part]) picture.found[part] = (await partsOf([picture], [part])).pictures[0][part];
  return picture.found[part];
}

async function framesOf(file) {
  const video = document.createElement("video");
  video.muted = true;
  video.src = URL.createObjectURL(file);
  try {
    await happened(video, "loadeddata");
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    const frames = [];
    for (let number = 0; number < FRAMES; number += 1) {
      const sought = happened(video, "seeked");
      video.currentTime = ((number + 0.5) / FRAMES) * video.duration;
      await sought;
      canvas.getContext("2d").drawImage(video, 0, 0);
      frames.push({ blob: await canvas.convertToBlob(), name: `${file.name}_${String(number + 1).padStart(2, "0")}.png` });
    }
    return frames;
  } catch {
    throw new Failure(0, `This browser cannot show the video ${file.name}`);
  } finally {
    URL.revokeObjectURL(video.src);
  }
}

const happened = (node, name) =>
  new Promise((resolve, reject) => {
    node.addEventListener(name, resolve, { once: true });
    node.addEventListener("error", reject, { once: true });
  });

/** Buttons with a small picture each. */
export function showStrip(strip) {
  strip.hidden = pictures.length < 2;
  strip.replaceChildren(
    ...pictures.map((picture, index) => {
      const button = document.createElement("button");
      const image = document.createElement("img");
      image.src = picture.address;
      image.alt = picture.name;
      button.append(image);
      button.title = picture.name;
      button.ariaPressed = String(index === chosen.index);
      button.addEventListener("click", () => choose(index));
      return button;
    }),
  );
}
