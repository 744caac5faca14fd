// What went wrong, and what a user can do about it.

import { icon, make } from "../panels/dom.js";
import { words } from "../panels/words.js";

const LONGEST = 300; // characters of the cause that are not folded

/** Explain an error in a line: the gateway's own `message`, and what to do, in the language of the page. */
export function explain(code, message) {
  const [first] = (message || "").split("\n");
  return [sentence(first), words(`errors.code.${code}`, {}, "")].filter(Boolean).join(" ") || words("chat.broken");
}

/** An error in a frame: the gateway's `message` as a sentence, what to do, and folded details. */
export function fault(code, message, details) {
  const [first, ...rest] = (message || "").split("\n");
  const cause = first.length > LONGEST ? `${first.slice(0, LONGEST)} …` : sentence(first);
  const advice = words(`errors.code.${code}`, {}, "");
  const english = cause && make("span", { lang: "en" }, cause);
  // The gateway's own messages are English: elsewhere, the advice comes first.
  const lines = [english, advice].filter(Boolean);
  if (document.documentElement.lang !== "en") lines.reverse();
  const more = [cause.endsWith(" …") ? first : "", ...rest, details ?? ""].join("\n").trim();
  return make(
    "div",
    { className: "fault" },
    icon("alert"),
    make(
      "div",
      {},
      make("p", {}, make("strong", {}, lines[0] ?? words("chat.broken"))),
      lines[1] ? make("p", { className: "advice" }, lines[1]) : null,
      more ? make("details", {}, make("summary", {}, words("chat.details")), make("pre", { tabIndex: 0 }, more)) : null,
    ),
  );
}

/** A message of the gateway as a sentence. */
function sentence(text) {
  const whole = text.trim().replace(/:$/, "");
  if (!whole) return "";
  return whole[0].toUpperCase() + whole.slice(1) + (/\p{Po}$/u.test(whole) ? "" : ".");
}
