// Common to all pages: the command palette, and the service worker with the page that is shown
// without a connection.

const { worker, home, conversations } = document.body.dataset;

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

// Browsers have service workers only over HTTPS and on this machine.
if (worker) navigator.serviceWorker?.register(worker, { scope: home }).catch(() => {});
