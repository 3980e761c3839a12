// The parts of the page, and the token.

import { askJson, attempt, keepToken, tell } from "./api.js";
import { startEdit } from "./edit.js";
import { tellChange } from "./pictures.js";
import { startTry } from "./try.js";
import { startWatch, watch } from "./watch.js";

const links = [...document.querySelectorAll("nav a")];
const ask = document.getElementById("ask-token");

if (location.hash.startsWith("#token=")) {
  keepToken(decodeURIComponent(location.hash.slice(7)));
  history.replaceState(null, "", location.pathname);
}

async function start() {
  const about = await askJson("healthz");
  if (!about.model) for (const link of links) link.hidden = link.dataset.needs === "model";
  await askJson("runs"); // asks for the token where there is one
  document.querySelector("nav").hidden = false;
  startTry();
  startEdit();
  startWatch();
  tellChange();
  addEventListener("hashchange", turn);
  turn();
}

/** Show the part that the address names. */
function turn() {
  const there = links.filter((link) => !link.hidden);
  const now = there.find((link) => link.hash === location.hash) ?? there[0];
  for (const link of links) {
    if (link === now) link.ariaCurrent = "page";
    else link.removeAttribute("aria-current");
    document.querySelector(link.hash).hidden = link !== now;
  }
  tell("");
  tellChange();
  watch(now.hash === "#watch");
}

document.addEventListener("token-needed", () => {
  tell("");
  ask.hidden = false;
  document.getElementById("token").focus();
});
ask.addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(document.getElementById("token").value);
  location.reload();
});

attempt(start);
