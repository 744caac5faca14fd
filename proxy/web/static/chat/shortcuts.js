// Shortcuts: Escape stops an answer where nothing else has used it, ↑ in an empty box edits the last question.

/** `acts`: stop(), edit(); each returns whether it did something. */
export function shortcuts(box, acts) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    let done = false;
    if (event.key === "Escape") done = acts.stop();
    else if (event.key === "ArrowUp" && event.target === box && !box.value) done = acts.edit();
    if (done) event.preventDefault();
  });
}
