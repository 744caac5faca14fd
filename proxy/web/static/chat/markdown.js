// What a model writes, as Markdown. It is untrusted: cleaned of everything that could act, and
// nothing is fetched for it.

import { marked } from "../vendor/marked/marked.esm.js";
import { colour, escape, renderer } from "./code.js";
import { extensions, typeset } from "./formulas.js";

const CLEAN = {
  FORBID_TAGS: ["style", "form", "input", "button", "textarea", "select", "iframe", "video", "audio", "img", "svg", "math"],
  FORBID_ATTR: ["style", "class", "id", "name"],
};

// HTML of a model's is text: a parser that only looks at it would already trip over the policy.
const html = ({ text }) => (/^<br\s*\/?>$/i.test(text) ? "<br>" : escape(text));

marked.use({ gfm: true, breaks: true, extensions, renderer: { ...renderer, html } });

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.target = "_blank";
  node.rel = "noopener noreferrer nofollow";
});

/** Show a text in an element. */
export function render(element, text) {
  new Growing(element).end(text);
}

/** Shows a text that grows: once a frame at most, and of it only the last block is read and laid out
 * again, as what comes after cannot change those before; so a long answer costs no more than its
 * last paragraph. */
export class Growing {
  text = "";
  #element;
  #blocks = []; // {raw, from, element, done}
  #waiting = false;
  #over = false;
  #cost = 0;

  constructor(element) {
    this.#element = element;
    element.classList.add("rich");
  }

  add(delta) {
    this.text += delta.replaceAll("\r", ""); // blocks are found by their places in it
    if (this.#waiting || this.#over) return;
    this.#waiting = true;
    setTimeout(() => requestAnimationFrame(() => this.#draw()), Math.min(this.#cost * 4, 500));
  }

  /** It grows no more; `text` is what it is in the end. It is read once more as a whole. */
  end(text = this.text) {
    this.text = text.replaceAll("\r", "");
    this.#over = true;
    this.#draw();
  }

  #draw() {
    this.#waiting = false;
    const began = performance.now();
    if (!this.#blocks.length) this.#element.replaceChildren();
    const kept = this.#over ? 0 : Math.max(0, this.#blocks.length - 1);
    let from = this.#blocks[kept]?.from ?? 0;
    const tokens = [];
    for (const token of marked.lexer(this.text.slice(from))) {
      if (token.type !== "space") tokens.push({ token, from });
      from += token.raw.length;
    }
    for (const block of this.#blocks.splice(kept + tokens.length)) block.element.remove();
    tokens.forEach(({ token, from }, n) => {
      let block = this.#blocks[kept + n];
      if (!block) {
        block = this.#blocks[kept + n] = { raw: null, from, element: document.createElement("div"), done: false };
        this.#element.append(block.element);
      }
      block.from = from;
      if (block.raw !== token.raw) {
        block.raw = token.raw;
        block.done = false;
        block.element.innerHTML = DOMPurify.sanitize(marked.parser([token]), CLEAN);
        typeset(block.element);
      }
      if (!block.done && (this.#over || n < tokens.length - 1)) {
        block.done = true;
        colour(block.element);
      }
    });
    this.#cost = performance.now() - began;
  }
}
