// Renders a model's Markdown. It is untrusted: active content is removed, and nothing is loaded.
//
// Marked takes time with the square of a paragraph, recurses into quotes and lists, and each block is
// cleaned by itself. So what is too long, too much or too deep for it is shown as it was written.

// oxlint-disable-next-line no-unassigned-import -- it defines DOMPurify
import "../vendor/dompurify/purify.min.js";
import { Lexer, marked } from "../vendor/marked/marked.esm.js";
import { bars, colour, escape, renderer } from "./code.js";
import * as footnotes from "./footnotes.js";
import { BUSY, extensions, typeset, typesetNow } from "./formulas.js";
import { morph } from "./morph.js";
import * as pictures from "./pictures.js";
import { tables } from "./tables.js";
import { words } from "../panels/words.js";

const CLEAN = {
  FORBID_TAGS: ["style", "form", "input", "button", "textarea", "select", "iframe", "video", "audio", "img", "svg", "math"],
  FORBID_ATTR: ["style", "class", "id", "name"],
};

const LONGEST = 200_000; // characters of a text that are Markdown
const LONGEST_INLINE = 5000; // characters of a paragraph, or of any text with emphasis and links
const LONGEST_BLOCK = 50_000; // characters of a block, unless it is code
const MOST = 2000; // blocks of a text

// A model's HTML is shown as text: even parsing it would violate the content security policy.
const html = ({ text }) => (/^<br\s*\/?>$/i.test(text) ? "<br>" : escape(text));
const checkbox = ({ checked }) =>
  `<span role="img" data-box aria-label="${escape(words(checked ? "rich.done" : "rich.to_do"))}">${checked ? "☑" : "☐"}</span> `;

marked.use({
  gfm: true,
  breaks: true,
  extensions: [...extensions, ...footnotes.extensions, ...pictures.extensions],
  renderer: { ...renderer, ...pictures.renderer, html, checkbox },
});

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.target = "_blank";
  node.rel = "noopener noreferrer nofollow";
});

class BoundedLexer extends Lexer {
  inlineTokens(text, tokens = []) {
    if (text.length <= LONGEST_INLINE) return super.inlineTokens(text, tokens);
    tokens.push({ type: "text", raw: text, text });
    return tokens;
  }
}

/** The blocks of a text that begins at this place of a whole one, and at this number of blocks. */
function lexed(text, place, number) {
  const head = number < MOST ? text.slice(0, Math.max(0, LONGEST - place)) : "";
  try {
    const tokens = new BoundedLexer().lex(head).slice(0, MOST - number);
    const size = tokens.reduce((sum, token) => sum + token.raw.length, 0);
    const blocks = tokens.map((token) => (fits(token) ? token : plain(token.raw)));
    return size < text.length ? [...blocks, plain(text.slice(size))] : blocks;
  } catch {
    return [plain(text)]; // nested too deeply
  }
}

const fits = ({ type, raw }) => ["code", "picture"].includes(type) || raw.length <= LONGEST_BLOCK;
const plain = (raw) => ({ type: "plain", raw });

function drawn(token) {
  const element = document.createElement("div");
  try {
    if (token.type !== "plain") {
      element.innerHTML = DOMPurify.sanitize(marked.parser([token]), CLEAN);
      return element;
    }
  } catch {} // nested too deeply
  const text = document.createElement("p");
  text.dataset.plain = "";
  text.textContent = token.raw;
  element.append(text);
  return element;
}

/** Render a text into an element. */
export function render(element, text) {
  new Growing(element).end(text);
}

/** Renders a growing text, at most once per frame. Only the last block is parsed and rendered
 * again, since later text cannot change earlier blocks. So a long answer costs no more than its
 * last paragraph. */
export class Growing {
  text = "";
  #element;
  #blocks = []; // {raw, from, element, done, note}
  #notes;
  #waiting = false;
  #over = false;
  #cost = 0;

  constructor(element) {
    this.#element = element;
    this.#notes = new footnotes.Footnotes(element);
    element.classList.add("rich");
  }

  add(delta) {
    this.text += delta.replaceAll("\r", ""); // blocks are located by their position in the text
    if (this.#waiting || this.#over) return;
    this.#waiting = true;
    setTimeout(() => requestAnimationFrame(() => this.#draw()), Math.min(this.#cost * 4, 500));
  }

  /** Finish: render the final `text` once more as a whole. */
  end(text = this.text) {
    this.text = text.replaceAll("\r", "");
    this.#over = true;
    this.#draw();
  }

  /** Move a footnote to the end, and link those of a block. */
  #note(block, token, wanted) {
    if (token.type === "footnote" && this.#notes.add(token.name, block.element)) this.#notes.number(token.name, wanted);
    this.#notes.link(wanted);
  }

  #draw() {
    this.#waiting = false;
    const began = performance.now();
    if (!this.#blocks.length) this.#element.replaceChildren();
    const finished = this.#over ? 0 : Math.max(0, this.#blocks.length - 1);
    let begins = this.#blocks[finished]?.from ?? 0;
    const tokens = [];
    for (const token of lexed(this.text.slice(begins), begins, finished)) {
      if (token.type !== "space") tokens.push({ token, from: begins });
      begins += token.raw.length;
    }
    for (const block of this.#blocks.splice(finished + tokens.length)) block.element.remove();
    tokens.forEach(({ token, from }, n) => {
      let block = this.#blocks[finished + n];
      if (!block) {
        block = this.#blocks[finished + n] = { raw: null, from, element: document.createElement("div"), done: false };
        this.#element.insertBefore(block.element, this.#notes.end);
      }
      block.from = from;
      if (block.raw !== token.raw) {
        block.raw = token.raw;
        block.done = false;
        const wanted = drawn(token);
        bars(wanted);
        tables(wanted);
        pictures.pictures(wanted);
        this.#note(block, token, wanted);
        typesetNow(wanted, began + BUSY);
        morph(block.element, wanted);
        typeset(block.element, this.#element);
      }
      if (!block.done && (this.#over || n < tokens.length - 1)) {
        block.done = true;
        colour(block.element);
      }
    });
    this.#notes.over();
    this.#cost = performance.now() - began;
  }
}
