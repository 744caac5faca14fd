// Code in an answer: a bar with its language and a copy button, and colours by highlight.js, which
// is loaded for the first code block.

import { copyText, make } from "../panels/dom.js";
import { words } from "../panels/words.js";

const LONGEST = 50_000; // characters; longer code is not coloured

let library;

function fetched() {
  library ??= import("../vendor/highlight/highlight.min.js").then((module) => module.default);
  return library;
}

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
export const escape = (text) => text.replace(/[&<>"]/g, (sign) => ESCAPES[sign]);

/** Renderer for `marked.use`. The language survives the HTML cleaning. */
export const renderer = {
  code({ text, lang }) {
    const language = (lang ?? "").split(/\s/)[0];
    return `<pre><code data-language="${escape(language)}">${escape(text)}\n</code></pre>\n`;
  },
};

/** Put a bar with the language and a copy button above each code in an element. */
export function bars(element) {
  for (const code of element.querySelectorAll("pre > code[data-language]")) {
    code.parentElement.tabIndex = 0; // scrollable by keyboard, too
    const copy = make("button", { type: "button", className: "quiet", onclick: copied }, words("common.copy"));
    code.parentElement.before(make("div", { className: "code-bar" }, make("span", {}, code.dataset.language), copy));
  }
}

async function copied({ currentTarget: button }) {
  const done = await copyText(button.parentElement.nextElementSibling.textContent);
  button.textContent = words(done ? "chat.copied" : "chat.not_copied");
  setTimeout(() => (button.textContent = words("common.copy")), 1500);
}

/** Colour the code in an element. The colours change no size. */
export async function colour(element) {
  const blocks = [...element.querySelectorAll("pre > code[data-language]")];
  const named = blocks.filter((code) => code.dataset.language && code.textContent.length <= LONGEST);
  if (!named.length) return;
  const hljs = await fetched().catch(() => null);
  for (const code of named) {
    if (!hljs?.getLanguage(code.dataset.language)) continue;
    // highlight.js returns its input escaped, in spans.
    code.innerHTML = hljs.highlight(code.textContent, { language: code.dataset.language, ignoreIllegals: true }).value;
  }
}
