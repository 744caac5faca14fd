// Renders a model's Markdown. It is untrusted: active content is removed, and nothing is loaded.

import { marked } from "../vendor/marked/marked.esm.js";
import { bars, colour, escape, renderer } from "./code.js";
import { extensions, typeset } from "./formulas.js";
import { morph } from "./morph.js";

const CLEAN = {
  FORBID_TAGS: ["style", "form", "input", "button", "textarea", "select", "iframe", "video", "audio", "img", "svg", "math"],
  FORBID_ATTR: ["style", "class", "id", "name"],
};

// A model's HTML is shown as text: even parsing it would violate the content security policy.
const html = ({ text }) => (/^<br\s*\/?>$/i.test(text) ? "<br>" : escape(text));

marked.use({ gfm: true, breaks: true, extensions, renderer: { ...renderer, html } });

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.target = "_blank";
  node.rel = "noopener noreferrer nofollow";
});

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
  #blocks = []; // {raw, from, element, done}
  #waiting = false;
  #over = false;
  #cost = 0;

  constructor(element) {
    this.#element = element;
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

  #draw() {
    this.#waiting = false;
    const began = performance.now();
    if (!this.#blocks.length) this.#element.replaceChildren();
    const kept = this.#over ? 0 : Math.max(0, this.#blocks.length - 1);
    let begins = this.#blocks[kept]?.from ?? 0;
    const tokens = [];
    for (const token of marked.lexer(this.text.slice(begins))) {
      if (token.type !== "space") tokens.push({ token, from: begins });
      begins += token.raw.length;
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
        const wanted = document.createElement("div");
        wanted.innerHTML = DOMPurify.sanitize(marked.parser([token]), CLEAN);
        bars(wanted);
        typeset(wanted); // at once, if its library is there
        morph(block.element, wanted);
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
