// The list of conversations: the newest, older pages, and search results.

import { keyed, make, say } from "../panels/dom.js";
import { words } from "./words.js";

export class Talks {
  #all = [];
  #searched = "";
  #asked = 0; // ignore all answers but the last request's

  /** `shown()` returns the open conversation, `choose(talk)` is called for another. */
  constructor(at, calls, attempt, size, shown, choose) {
    Object.assign(this, { at, calls, attempt, size, shown, choose });
    at("find").addEventListener("input", () => this.load());
    at("more").addEventListener("click", () => this.#more());
  }

  find = (id) => this.#all.find((one) => one.id === id);

  without(id) {
    this.#all = this.#all.filter((one) => one.id !== id);
    this.show();
  }

  /** Reload the newest conversations; older ones in the list stay. */
  async load() {
    const search = this.at("find").value.trim();
    const found = await this.#ask(search);
    if (!found) return;
    const kept = search === this.#searched ? this.#all : [];
    this.#searched = search;
    const known = new Set(found.map((one) => one.id));
    const whole = found.length < this.size;
    const older = whole ? [] : kept.filter((one) => one.changed < found.at(-1).changed && !known.has(one.id));
    this.#all = [...found, ...older];
    if (!older.length) this.at("more").hidden = whole;
    this.show();
  }

  async #more() {
    const found = await this.#ask(this.#searched, this.#all.at(-1).changed);
    if (!found) return;
    this.#all = [...this.#all, ...found];
    this.at("more").hidden = found.length < this.size;
    this.show();
  }

  async #ask(search, before = "") {
    const mine = ++this.#asked;
    const asked = new URLSearchParams({ search, before });
    const found = await this.attempt(() => this.calls.get(`/conversations?${asked}`));
    return mine === this.#asked ? found : undefined;
  }

  show() {
    keyed(this.at("talks"), this.#all, (one) => one.id, () => {
      const button = make("button", { type: "button", onclick: () => this.choose(item.talk) });
      const item = make("li", {}, button);
      item.update = (one) => {
        item.talk = one;
        say(button, one.title || words.untitled);
        button.setAttribute("aria-current", String(one.id === this.shown()?.id));
      };
      return item;
    });
  }
}
