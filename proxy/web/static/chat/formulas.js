// Formulas in Markdown: `$…$` and `\(…\)` inline, `$$…$$` and `\[…\]` as blocks. A formula is
// inserted as its source, then typeset by KaTeX, which is loaded for the first formula.

import { escape } from "./code.js";

const INLINE = [
  /^\\\(((?:[^\\]|\\[^)])+?)\\\)/,
  // As in pandoc: no blanks inside the dollar signs, so that "$5 and $10" is money.
  /^\$(?!\s|\$)((?:[^$\\\n]|\\[^\n])+?)(?<!\s)\$(?![\d$])/,
];
const BLOCK = [/^\\\[([\s\S]+?)\\\](?:\n+|$)/, /^\$\$([\s\S]+?)\$\$(?:\n+|$)/];
const LONGEST = 5000; // characters; longer formulas are not typeset

function extension(name, level, patterns, start) {
  return {
    name,
    level,
    start: (text) => {
      const found = text.search(start);
      return found < 0 ? undefined : found;
    },
    tokenizer: (text) => {
      for (const pattern of patterns) {
        const found = pattern.exec(text);
        if (found) return { type: name, raw: found[0], text: found[1].trim() };
      }
      return undefined;
    },
    renderer: ({ text }) =>
      level === "block"
        ? `<p data-tex="block">${escape(text)}</p>\n`
        : `<span data-tex="line">${escape(text)}</span>`,
  };
}

/** Extensions for `marked.use`. */
export const extensions = [
  extension("tex_block", "block", BLOCK, /\\\[|\$\$/),
  extension("tex_line", "inline", INLINE, /\\\(|\$/),
];

let library;
let katex; // once its style sheet is there, too

function fetched() {
  library ??= import("../vendor/katex/katex.min.js").then(() => {
    const sheet = document.createElement("link");
    sheet.rel = "stylesheet";
    sheet.href = new URL("../vendor/katex/katex.min.css", import.meta.url).href;
    return new Promise((done) => {
      sheet.addEventListener("load", () => done((katex = globalThis.katex)));
      sheet.addEventListener("error", () => done(null));
      document.head.append(sheet);
    });
  });
  return library;
}

/** Typeset the formulas in an element. Invalid ones stay as source. */
export async function typeset(element) {
  const found = [...element.querySelectorAll("[data-tex]")];
  if (!found.length) return;
  if (!katex && !(await fetched().catch(() => null))) return;
  for (const one of found) {
    if (one.dataset.tex === undefined) continue; // typeset by a call in between
    const source = one.textContent;
    if (source.length > LONGEST) continue;
    try {
      // A model's macros must not loop, load or link.
      const options = { displayMode: one.dataset.tex === "block", trust: false, strict: "ignore", maxExpand: 500, maxSize: 20 };
      katex.render(source, one, options);
    } catch {
      one.textContent = source;
    }
    delete one.dataset.tex;
  }
}
