// Footnotes in Markdown: `[^name]` in a line, and `[^name]: text` as a block. A name without a block
// stays as it was written. Notes stand at the end of the answer, numbered in their order.

import { make } from "../panels/dom.js";
import { words } from "../panels/words.js";
import { escape } from "./code.js";

const NOTE = /^ {0,3}\[\^([^\]\s]{1,60})\]:[ \t]*([^\n]*(?:\n(?![ \t]*\n| {0,3}\[\^)[^\n]+|\n{1,2}(?: {4}|\t)[^\n]+)*)(?:\n+|$)/;
const MARK = /^\[\^([^\]\s]{1,60})\](?!:)/;
const BEGINS = /\n {0,3}\[\^[^\]\s]{1,60}\]:/;

/** Extensions for `marked.use`. */
export const extensions = [
  {
    name: "footnote",
    level: "block",
    start(text) {
      const end = text.indexOf("\n\n");
      const at = (end < 0 ? text : text.slice(0, end)).search(BEGINS);
      return at < 0 ? undefined : at + 1;
    },
    tokenizer(text) {
      const match = NOTE.exec(text);
      if (!match) return undefined;
      const token = { type: "footnote", raw: match[0], name: match[1], tokens: [] };
      this.lexer.inline(match[2].replace(/\n\s*/g, "\n"), token.tokens);
      return token;
    },
    renderer({ tokens }) {
      return `<p>${this.parser.parseInline(tokens)}</p>\n`;
    },
  },
  {
    name: "footnote_mark",
    level: "inline",
    start: (text) => {
      const at = text.indexOf("[^");
      return at < 0 ? undefined : at;
    },
    tokenizer(text) {
      const match = MARK.exec(text);
      return match ? { type: "footnote_mark", raw: match[0], name: match[1] } : undefined;
    },
    renderer: ({ raw, name }) => `<span data-mark="${escape(name)}">${escape(raw)}</span>`,
  },
];

/** The notes of one text. */
export class Footnotes {
  #notes = new Map(); // by name: the element of the note
  #section = null;
  #added = false; // whether marks elsewhere have to be linked

  /** `element` has the whole text. */
  constructor(element) {
    this.element = element;
  }

  /** The end of the text, before which its other blocks are. */
  get end() {
    return this.#section?.parentElement === this.element ? this.#section : null;
  }

  /** Put the element of a note among the notes. A second note of a name stays in its place: returns
   * false. */
  add(name, element) {
    if (this.#notes.has(name)) return this.#notes.get(name) === element;
    this.#notes.set(name, element);
    this.#section ??= make("section", { className: "footnotes", "aria-label": words("rich.footnotes") });
    if (!this.end) this.element.append(this.#section);
    this.#section.append(element);
    element.className = "footnote";
    element.tabIndex = -1;
    element.dataset.number = String(this.#notes.size);
    this.#added = true;
    return true;
  }

  /** Write a note's way back into what is to be shown. */
  number(name, wanted) {
    const back = make("button", { type: "button", className: "mark", "aria-label": words("rich.back_to_text"), onclick: () => this.#back(name) }, "↩");
    wanted.lastElementChild?.append(" ", back);
  }

  /** Turn the marks of notes that are known into links to them. */
  link(element) {
    if (!this.#notes.size) return;
    for (const mark of element.querySelectorAll("[data-mark]")) {
      const note = this.#notes.get(mark.dataset.mark);
      if (!note || mark.firstElementChild) continue;
      const n = note.dataset.number;
      const go = make("button", { type: "button", className: "mark", "aria-label": words("rich.footnote", { n }), onclick: () => note.focus() }, n);
      mark.replaceChildren(go);
    }
  }

  /** Link the marks of notes that were added. */
  over() {
    if (this.#added) this.link(this.element);
    this.#added = false;
  }

  #back(name) {
    const marks = [...this.element.querySelectorAll("[data-mark]")];
    marks.find((mark) => mark.dataset.mark === name)?.firstElementChild?.focus();
  }
}
