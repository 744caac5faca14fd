// The page that is shown without a connection: asks for the wanted page until it can be loaded.

const LOOK = 3000; // milliseconds

async function look() {
  try {
    const answer = await fetch(document.body.dataset.home, { method: "HEAD", cache: "no-store" });
    if (answer.status < 500) return location.reload();
  } catch {
    // Still no connection.
  }
  setTimeout(look, LOOK);
}

window.addEventListener("online", () => location.reload());
document.querySelector("[data-part='again']").addEventListener("click", () => location.reload());
setTimeout(look, LOOK);
