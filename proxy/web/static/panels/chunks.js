// A dialog with the chunks of a document, to read and edit.

import { make, say } from "./dom.js";
import { place } from "./places.js";
import { words } from "./words.js";

/** Show the document at `path`; `attempt(work)` runs `work` and shows its errors. */
export async function chunks(dialog, calls, path, name, attempt) {
  const read = await attempt(() => calls.get(`${path}/chunks`));
  if (!read) return;
  const list = make("ol", { className: "chunks" });
  list.append(...read.map((piece, n) => chunk(piece, n + 1, calls, attempt)));
  const close = make("button", { type: "button", className: "quiet", onclick: () => dialog.close() }, words("common.close"));
  const title = make("h2", { id: "chunks-title" }, words("knowledge.chunk_of", { name }));
  dialog.replaceChildren(make("header", {}, title, close), list);
  dialog.showModal();
}

function chunk(piece, number, calls, attempt) {
  const text = make("p", { className: "text" }, piece.text);
  const note = make("span", { className: "note", role: "status" });
  const area = make("textarea", { value: piece.text, rows: 8, hidden: true, "aria-label": words("knowledge.chunk", { n: number }) });
  const edit = make("button", { type: "button", className: "quiet" }, words("common.edit"));
  const save = make("button", { type: "button", hidden: true }, words("common.save"));
  const cancel = make("button", { type: "button", className: "quiet", hidden: true }, words("common.cancel"));
  const editing = (yes) => {
    text.hidden = edit.hidden = yes;
    area.hidden = save.hidden = cancel.hidden = !yes;
    (yes ? area : edit).focus();
  };
  edit.addEventListener("click", () => {
    area.value = text.textContent;
    editing(true);
  });
  cancel.addEventListener("click", () => editing(false));
  save.addEventListener("click", async () => {
    const done = await attempt(async () => (await calls.put(`/chunks/${piece.id}`, { text: area.value }), true));
    if (!done) return;
    say(text, area.value);
    say(note, words("knowledge.saved"));
    editing(false);
  });
  return make(
    "li",
    { className: "card" },
    make("p", { className: "note" }, words("knowledge.chunk", { n: number }), piece.place ? ` · ${place(piece.place)}` : ""),
    text,
    area,
    make("div", { className: "actions" }, edit, save, cancel, note),
  );
}
