// Formulas in Markdown: `$…$` and `\(…\)` inline, `$$…$$` and `\[…\]` as blocks. A formula is
// inserted as its source, then typeset by KaTeX, which is loaded for the first formula.

import { escape } from "./code.js";

// None has more than 5000 characters: its end is looked for at every place where one may begin.
const INLINE = [
  /^\\\(((?:[^\\]|\\[^)]){1,5000}?)\\\)/,
  /^\\\[((?:[^\\]|\\[^\]]){1,5000}?)\\\]/,
  /^\$\$([^$]{1,5000}?)\$\$/,
  // As in pandoc: no blanks inside the dollar signs, so that "$5 and $10" is money.
  /^\$(?!\s|\$)((?:[^$\\\n]|\\[^\n]){1,5000}?)(?<!\s)\$(?![\d$])/,
];
const BLOCK = [
  /^ {0,3}\\\[(?!\s*\\\])([\s\S]{1,5000}?)\\\](?:\n+|$)/,
  /^ {0,3}\$\$(?!\s*\$\$)([\s\S]{1,5000}?)\$\$(?:\n+|$)/,
];
const TRIES = 100; // lines of a paragraph that may begin a formula
export const BUSY = 50; // milliseconds of typesetting after which the page has its turn
const MOST = 1000; // formulas of a text that are typeset

function extension(name, level, patterns, start) {
  return {
    name,
    level,
    start,
    tokenizer: (text) => {
      for (const pattern of patterns) {
        const match = pattern.exec(text);
        if (match) return { type: name, raw: match[0], text: match[1].trim() };
      }
      return undefined;
    },
    renderer: ({ text }) =>
      level === "block"
        ? `<p data-tex="block">${escape(text)}</p>\n`
        : `<span data-tex="line">${escape(text)}</span>`,
  };
}

/** Where a formula begins that ends a paragraph: at the beginning of one of its lines. Only some are
 * looked at. */
function blockStart(text) {
  const end = text.indexOf("\n\n");
  const paragraph = end < 0 ? text : text.slice(0, end);
  const begins = /\n {0,3}(?:\\\[|\$\$)/g;
  for (let n = 0; n < TRIES && begins.test(paragraph); n += 1) {
    const at = paragraph.lastIndexOf("\n", begins.lastIndex - 1) + 1;
    const rest = text.slice(at, at + 6000);
    if (BLOCK.some((pattern) => pattern.test(rest))) return at;
  }
  return undefined;
}

function lineStart(text) {
  const at = text.search(/\\[([]|\$/);
  return at < 0 ? undefined : at;
}

/** Extensions for `marked.use`. */
export const extensions = [
  extension("tex_block", "block", BLOCK, blockStart),
  extension("tex_line", "inline", INLINE, lineStart),
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

let turn = Promise.resolve(); // of the last element that is typeset
let rested = 0; // when the page last had its turn
const counts = new WeakMap(); // the formulas of a text that were typeset in turns

/** Typeset the formulas in an element of a text, one element after the other. Invalid ones, and those
 * beyond MOST, stay as source. */
export function typeset(element, whole) {
  if (!element.querySelector("[data-tex]")) return;
  turn = turn.then(() => typesetLater(element, whole)).catch(() => {});
}

async function typesetLater(element, whole) {
  if (!katex && !(await fetched().catch(() => null))) return;
  for (const formula of element.querySelectorAll("[data-tex]")) {
    const count = (counts.get(whole) ?? 0) + 1;
    if (count > MOST) return;
    counts.set(whole, count);
    if (performance.now() - rested > BUSY) {
      await new Promise((done) => setTimeout(done));
      rested = performance.now();
    }
    draw(formula);
  }
}

/** Typeset the formulas for which there is time until `end`, if the library is there. */
export function typesetNow(element, end) {
  if (!katex) return;
  for (const formula of element.querySelectorAll("[data-tex]")) {
    if (performance.now() > end) return;
    draw(formula);
  }
}

function draw(formula) {
  if (formula.dataset.tex === undefined) return; // typeset by a call in between
  const source = formula.textContent;
  try {
    // A model's macros must not loop, load or link.
    const options = { displayMode: formula.dataset.tex === "block", trust: false, strict: "ignore", maxExpand: 500, maxSize: 20 };
    katex.render(source, formula, options);
  } catch {
    formula.textContent = source;
  }
  delete formula.dataset.tex;
}
