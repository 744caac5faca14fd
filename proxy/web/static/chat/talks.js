// The list of conversations: pinned ones, the newest, older pages, and search results.

import { icon, keyed, make, say } from "../panels/dom.js";
import { day } from "./days.js";
import { retype } from "./retype.js";
import { words } from "../panels/words.js";

export class Talks {
  #all = [];
  #pinned = [];
  #searched = "";
  #asked = 0; // ignore all answers but the last request's
  #loads = 0; // and those of all loads but the last

  /** `shown()` returns the open conversation, `choose(talk)` is called for another, and
   * `changed(talk)` after a change. */
  constructor(at, calls, attempt, size, shown, choose, changed) {
    Object.assign(this, { at, calls, attempt, size, shown, choose, changed });
    at("find").addEventListener("input", () => this.load());
    at("more").addEventListener("click", () => this.#more());
  }

  find = (id) => [...this.#pinned, ...this.#all].find((one) => one.id === id);

  /** Change the title of a conversation, or pin it: `{title}`, `{pinned}`. */
  async change({ id }, values) {
    const talk = await this.attempt(() => this.calls.put(`/conversations/${id}`, values));
    if (talk) this.changed(talk);
    await this.load();
  }

  without(id) {
    this.#all = this.#all.filter((one) => one.id !== id);
    this.#pinned = this.#pinned.filter((one) => one.id !== id);
    this.show();
  }

  /** Reload the newest conversations; older ones in the list stay. */
  async load() {
    const mine = ++this.#loads;
    const search = this.at("find").value.trim();
    const [found, pinned] = await Promise.all([
      this.#ask(search),
      search ? [] : this.calls.get("/conversations?pinned=1").catch(() => this.#pinned),
    ]);
    if (!found || mine !== this.#loads) return;
    this.#pinned = pinned;
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
    const pinned = new Set(this.#pinned.map((one) => one.id));
    const all = [...this.#pinned, ...this.#all.filter((one) => !pinned.has(one.id))];
    let before = "";
    const days = new Map();
    for (const one of all) {
      const group = day(one);
      if (group !== before) days.set(one.id, group);
      before = group;
    }
    keyed(this.at("talks"), all, (one) => one.id, () => this.#row());
    for (const row of this.at("talks").children) {
      // The first row of a group shows its name above.
      if (days.has(row.dataset.key)) row.dataset.day = days.get(row.dataset.key);
      else delete row.dataset.day;
    }
  }

  #row() {
    const open = make("button", { type: "button", onclick: () => this.choose(row.talk) });
    const act = (sign, done) => make("button", { type: "button", className: "quiet sign", onclick: done }, icon(sign));
    const pin = act("pin", () => this.change(row.talk, { pinned: !row.talk.settings.pinned }));
    const rename = act("pencil", () => {
      retype(row, row.talk.title, words("chat.new_title"), (title) => this.change(row.talk, { title }));
    });
    const row = make("li", {}, open, pin, rename);
    row.update = (one) => {
      row.talk = one;
      const title = one.title || words("chat.untitled");
      say(open, title);
      open.setAttribute("aria-current", String(one.id === this.shown()?.id));
      pin.ariaPressed = String(Boolean(one.settings.pinned));
      pin.title = pin.ariaLabel = words(one.settings.pinned ? "chat.unpin" : "chat.pin", { name: title });
      rename.title = rename.ariaLabel = words("chat.rename", { name: title });
    };
    return row;
  }
}
