// Edits a text in place.

import { make } from "../panels/dom.js";

/** Show an input with `text` in an element, in place of what is there, until Enter or a click
 * elsewhere calls `done(text)`; Escape changes nothing. */
export function retype(element, text, label, done) {
  if (element.querySelector("input")) return;
  const before = [...element.childNodes];
  const input = make("input", { value: text, maxLength: 200, "aria-label": label });
  let over = false;
  const end = (keep) => {
    if (over) return;
    over = true;
    const typed = input.value.trim();
    element.replaceChildren(...before);
    element.classList.remove("retyped");
    if (keep && typed && typed !== text) done(typed);
    else before[0]?.focus?.();
  };
  input.addEventListener("blur", () => end(true));
  input.addEventListener("keydown", (event) => {
    if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    end(event.key === "Enter");
  });
  element.classList.add("retyped");
  element.replaceChildren(input);
  input.focus();
  input.select();
}
