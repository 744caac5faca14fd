// Shortcuts: Escape stops an answer, Ctrl+K searches conversations, ↑ in an empty box edits the last
// question.

/** `acts`: stop(), search(), edit(); each returns whether it did something. */
export function shortcuts(box, acts) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    const command = event.ctrlKey || event.metaKey;
    let done = false;
    if (event.key === "Escape") done = acts.stop();
    else if (command && !event.shiftKey && event.key.toLowerCase() === "k") done = acts.search();
    else if (event.key === "ArrowUp" && event.target === box && !box.value) done = acts.edit();
    if (done) event.preventDefault();
  });
}
