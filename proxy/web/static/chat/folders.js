// The dialog that moves a conversation to a folder.

import { icon, make } from "../panels/dom.js";
import { words } from "../panels/words.js";

const LONGEST = 60; // characters of a name

/** Ask for a folder; `done(name)` is called for another than the `present` one, "" for none. */
export function chooseFolder(title, folders, present, done) {
  const choose = (name) => {
    dialog.close();
    if (name !== present) done(name);
  };
  const row = (name, text, sign) => {
    const button = make("button", { type: "button", className: "quiet", onclick: () => choose(name) }, icon(sign), text);
    button.setAttribute("aria-current", String(name === present));
    return make("li", {}, button);
  };
  const input = make("input", { maxLength: LONGEST, required: true, placeholder: words("talks.new_folder"), "aria-label": words("talks.new_folder") });
  const submit = (event) => {
    event.preventDefault();
    if (input.value.trim()) choose(input.value.trim());
  };
  const close = make("button", { type: "button", className: "quiet", "aria-label": words("common.close"), onclick: () => dialog.close() }, icon("close"));
  const dialog = make(
    "dialog",
    { className: "passage folders", "aria-label": title, onclose: () => dialog.remove() },
    make("header", {}, make("h2", {}, title), close),
    make("ul", {}, row("", words("talks.no_folder"), "close"), folders.map((name) => row(name, name, "folder"))),
    make("form", { onsubmit: submit }, input, make("button", {}, words("talks.create"))),
  );
  document.getElementById("chat").append(dialog);
  dialog.showModal();
}
