// Common to all pages: the command palette.

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
navigator.serviceWorker?.getRegistrations().then((all) => all.forEach((one) => one.unregister()));
