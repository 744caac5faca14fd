// Code in an answer: a bar with its language and a button to copy it; colours by highlight.js, which
// is fetched for the first one.

import { make } from "../panels/dom.js";
import { words } from "./words.js";

const LONGEST = 50_000; // characters that are coloured

let library;

function fetched() {
  library ??= import("../vendor/highlight/highlight.min.js").then((module) => module.default);
  return library;
}

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
export const escape = (text) => text.replace(/[&<>"]/g, (sign) => ESCAPES[sign]);

/** For `marked.use`: the language outlives the cleaning. */
export const renderer = {
  code({ text, lang }) {
    const language = (lang ?? "").split(/\s/)[0];
    return `<pre><code data-language="${escape(language)}">${escape(text)}\n</code></pre>\n`;
  },
};

/** Colour what is in an element, and let it be copied. */
export async function colour(element) {
  const found = [...element.querySelectorAll("pre > code[data-language]:not([data-done])")];
  for (const code of found) {
    code.dataset.done = "";
    code.parentElement.tabIndex = 0; // it scrolls: by keys too
    const copy = make("button", { type: "button", className: "quiet" }, words.copy);
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(code.textContent);
      copy.textContent = words.copied;
      setTimeout(() => (copy.textContent = words.copy), 1500);
    });
    const bar = make("div", { className: "code-bar" }, make("span", {}, code.dataset.language), copy);
    code.parentElement.before(bar);
  }
  const named = found.filter((code) => code.dataset.language && code.textContent.length <= LONGEST);
  if (!named.length) return;
  const hljs = await fetched().catch(() => null);
  for (const code of named) {
    if (!hljs?.getLanguage(code.dataset.language)) continue;
    // It gives back what it got, escaped, in spans.
    code.innerHTML = hljs.highlight(code.textContent, { language: code.dataset.language, ignoreIllegals: true }).value;
  }
}
