// A dialog with the log of a model, which grows while it is open.

import { make, say } from "./dom.js";
import { words } from "./words.js";

const MOST = 2000; // lines
const NEAR = 40; // pixels from the end within which the view follows it
const RETRY = 5000; // milliseconds between attempts after a refusal

/** Show the log that is streamed at `address`. */
export function showLog(dialog, address, name) {
  const state = make("p", { className: "note", role: "status" }, words("models.log_empty"));
  const lines = make("pre", { className: "log", tabIndex: 0, "aria-label": words("models.log_of", { name }) });
  const close = make("button", { type: "button", className: "quiet", onclick: () => dialog.close() }, words("common.close"));
  const title = make("h2", { id: "log-title" }, words("models.log_of", { name }));
  dialog.replaceChildren(make("header", {}, title, close), state, lines);
  dialog.showModal();

  let source;
  let retry = 0;
  const listen = () => {
    source = new EventSource(address);
    source.addEventListener("start", () => lines.replaceChildren());
    source.addEventListener("message", ({ data }) => add(lines, data.split("\n")));
    source.addEventListener("message", () => say(state, words("models.log_live")));
    source.addEventListener("error", () => {
      if (source.readyState !== EventSource.CLOSED) return;
      say(state, words("common.lost"));
      retry = setTimeout(listen, RETRY);
    });
  };
  listen();
  dialog.addEventListener(
    "close",
    () => {
      clearTimeout(retry);
      source.close();
    },
    { once: true },
  );
}

function add(element, lines) {
  const follows = element.scrollHeight - element.scrollTop - element.clientHeight < NEAR;
  element.append(...lines.slice(-MOST).map((line) => document.createTextNode(`${line}\n`)));
  while (element.childNodes.length > MOST) element.firstChild.remove();
  if (follows) element.scrollTop = element.scrollHeight;
}
