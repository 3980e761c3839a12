// Watch: how trainings go.

import { askJson, attempt, post, tell } from "./api.js";

const EVERY = 2000; // milliseconds

const byId = (id) => document.getElementById(id);
let name = null;
let view = null;
let timer = 0;

export function startWatch() {
  for (const id of ["stop", "go-on"]) {
    byId(id).addEventListener("click", () =>
      attempt(async () => {
        byId(id).disabled = true;
        await post(`runs/${encodeURIComponent(name)}/${id}`, {});
        tell(id === "stop" ? "It stops after the step that it is in" : "It goes on; the first step takes a few seconds");
      }),
    );
  }
}

/** Look now and every few seconds, as long as this part of the page is shown. */
export async function watch(isShown) {
  clearTimeout(timer);
  if (!isShown) return;
  if (!document.hidden) await attempt(look);
  clearTimeout(timer);
  timer = setTimeout(() => watch(true), EVERY);
}

async function look() {
  const runs = await askJson("runs");
  if (!runs.some((run) => run.name === name)) name = (runs.find((run) => run.training) ?? runs[0])?.name ?? null;
  const strip = byId("runs");
  strip.hidden = runs.length < 2;
  if (strip.dataset.shown !== JSON.stringify([runs.map((run) => [run.name, run.training]), name])) {
    strip.dataset.shown = JSON.stringify([runs.map((run) => [run.name, run.training]), name]);
    strip.replaceChildren(...runs.map(chip));
  }
  byId("run").hidden = name === null;
  if (name === null) return tell("No run has begun yet");
  view = await askJson(`runs/${encodeURIComponent(name)}`);
  show();
}

function chip(run) {
  const button = document.createElement("button");
  button.textContent = run.training ? `${run.name} · training` : run.name;
  button.ariaPressed = String(run.name === name);
  button.addEventListener("click", async () => {
    name = run.name;
    tell("");
    await watch(true);
    byId("runs").querySelector("[aria-pressed=true]").focus();
  });
  return button;
}

function show() {
  byId("run-name").textContent = view.name;
  const state = view.training ? "training" : view.finished ? "finished" : "stopped";
  byId("run-state").textContent = view.phase ? `${state}, ${view.phase.replace("_", "-")}, step ${view.step}` : state;
  byId("stop").hidden = !view.training;
  byId("go-on").hidden = view.training || view.finished;
  byId("stop").disabled = byId("go-on").disabled = false;
  if (view.message) tell(view.message, true);
  byId("health").replaceChildren(
    ...view.health.map((words) => {
      const item = document.createElement("li");
      item.textContent = `${words[0].toUpperCase()}${words.slice(1)}.`;
      return item;
    }),
  );
  const panel = byId("panel");
  const address = view.panel ? `runs/${encodeURIComponent(name)}/panel?at=${view.panel}` : "";
  panel.hidden = !address;
  if (address && panel.getAttribute("src") !== address) panel.src = address;
  byId("charts").replaceChildren(
    ...view.curves.map(({ title, svg }) => {
      const box = document.createElement("div");
      const heading = document.createElement("h2");
      heading.textContent = title;
      box.append(heading);
      box.insertAdjacentHTML("beforeend", svg);
      return box;
    }),
  );
}
