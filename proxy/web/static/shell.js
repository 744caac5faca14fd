// Common to all pages: the bar on top, and the command palette.

import { menu, shade } from "./panels/menu.js";

const pages = document.querySelector(".bar nav");
if (pages) {
  shade(pages);
  menu(document.querySelector("[data-bar-pages]"), pages);
}
const more = document.querySelector("[data-bar-more]");
if (more) menu(more, document.getElementById("bar-more"));

const { conversations } = document.body.dataset;

async function palette() {
  if (document.querySelector("dialog[open]")) return;
  const { open } = await import("./panels/palette.js");
  if (!document.querySelector("dialog[open]")) open();
}

if (conversations) {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.shiftKey || event.altKey || !(event.ctrlKey || event.metaKey)) return;
    if (event.key.toLowerCase() !== "k") return;
    event.preventDefault(); // browsers would focus their address bar
    palette();
  });
  document.querySelector("[data-palette]")?.addEventListener("click", palette);
}

// Earlier versions have left one in the browser.
navigator.serviceWorker?.getRegistrations().then((all) => all.forEach((registration) => registration.unregister()));
