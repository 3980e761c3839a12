// Talking to the server, and telling the person how it went.

const COOKIE = "astseg_token";
const line = document.getElementById("status");

export class Failure extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

export function tell(words, wrong = false) {
  line.textContent = words;
  line.classList.toggle("wrong", wrong);
}

export function keepToken(token) {
  document.cookie = `${COOKIE}=${encodeURIComponent(token)}; SameSite=Strict; path=/`;
}

/** An answer of the server; throws a Failure in words for anything but success. */
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Failure(0, "The server does not answer: is astseg serve still running?");
  }
  if (answer.ok) return answer;
  const { detail } = await answer.json().catch(() => ({}));
  throw new Failure(answer.status, typeof detail === "string" ? detail : `The server answered ${answer.status}`);
}

export async function askJson(path, options) {
  return (await ask(path, options)).json();
}

export const post = (path, value) =>
  askJson(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value) });

/** Run what a click asks for; what goes wrong is told, never thrown. */
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    tell(error.message, true);
    if (error.status === 401) document.dispatchEvent(new Event("token-needed"));
  }
}

export function saveAddress(address, name) {
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
}

export function save(blob, name) {
  const address = URL.createObjectURL(blob);
  saveAddress(address, name);
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

export const saveCanvas = (canvas, name) => canvas.toBlob((blob) => save(blob, name), "image/png");

/** A picture of an address, decoded. */
export async function pictureOf(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

/** Labels, one a pixel, of a grey PNG. */
export async function labelsOf(address) {
  const image = await pictureOf(address);
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height);
  return { width, height, values: Uint8Array.from({ length: width * height }, (_, i) => data[4 * i]) };
}
