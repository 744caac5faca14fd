// The list of conversations: pinned ones, folders, the newest, older pages, and search results.

import { icon, keyed, make, say } from "../panels/dom.js";
import { day } from "./days.js";
import { chooseFolder } from "./folders.js";
import { retype } from "./retype.js";
import { words } from "../panels/words.js";

const { owner } = document.getElementById("chat").dataset;
const OPEN = `slotproxy open folders ${owner}`; // key in the browser's local storage

export class Talks {
  #all = []; // in no folder, unless they were searched
  #pinned = [];
  #folders = []; // names
  #filed = new Map(); // conversations of open folders, by name
  #open = opened(); // names
  #searched = "";
  #reads = 0; // ignore all answers but the last request's
  #loads = 0; // and those of all loads but the last

  /** `shown()` returns the open conversation, `choose(talk)` is called for another, and
   * `changed(talk)` after a change. */
  constructor(at, calls, attempt, size, shown, choose, changed) {
    Object.assign(this, { at, calls, attempt, size, shown, choose, changed });
    at("find").addEventListener("input", () => this.load());
    at("more").addEventListener("click", () => this.#more());
  }

  find = (id) => [...this.#pinned, ...this.#all, ...[...this.#filed.values()].flat()].find((talk) => talk.id === id);

  /** Change a conversation: `{title}`, `{pinned}` or `{folder}`. */
  async change({ id }, values) {
    const talk = await this.attempt(() => this.calls.put(`/conversations/${id}`, values));
    if (talk) this.changed(talk);
    await this.load();
  }

  without(id) {
    this.#all = this.#all.filter((talk) => talk.id !== id);
    this.#pinned = this.#pinned.filter((talk) => talk.id !== id);
    for (const [name, talks] of this.#filed) this.#filed.set(name, talks.filter((talk) => talk.id !== id));
    this.show();
  }

  /** Reload the newest conversations; older ones in the list stay. */
  async load() {
    const mine = ++this.#loads;
    const search = this.at("find").value.trim();
    const [talks, pinned, folders] = await Promise.all([
      this.#ask(search),
      search ? [] : this.calls.get("/conversations?pinned=1").catch(() => this.#pinned),
      search ? [] : this.calls.get("/folders").catch(() => this.#folders),
    ]);
    if (!talks || mine !== this.#loads) return;
    const open = folders.filter((name) => this.#open.has(name));
    const filed = await Promise.all(open.map((folder) => this.#inside(folder)));
    if (mine !== this.#loads) return;
    this.#pinned = pinned;
    this.#folders = folders;
    this.#filed = new Map(open.map((name, n) => [name, filed[n]]));
    const before = search === this.#searched ? this.#all : [];
    this.#searched = search;
    const ids = new Set(talks.map((talk) => talk.id));
    const whole = talks.length < this.size;
    const older = whole ? [] : before.filter((talk) => talk.changed < talks.at(-1).changed && !ids.has(talk.id));
    this.#all = [...talks, ...older];
    if (!older.length) this.at("more").hidden = whole;
    this.show();
  }

  async #more() {
    const page = await this.#ask(this.#searched, this.#all.at(-1).changed);
    if (!page) return;
    this.#all = [...this.#all, ...page];
    this.at("more").hidden = page.length < this.size;
    this.show();
  }

  async #ask(search, before = "") {
    const mine = ++this.#reads;
    const query = new URLSearchParams({ search, before, ...(!search && { folder: "" }) });
    const page = await this.attempt(() => this.calls.get(`/conversations?${query}`));
    return mine === this.#reads ? page : undefined;
  }

  /** All conversations of a folder, as far as they were shown. */
  async #inside(folder, before = "") {
    const earlier = this.#filed.get(folder) ?? [];
    const query = new URLSearchParams({ folder, before });
    const page = await this.calls.get(`/conversations?${query}`).catch(() => null);
    if (!page) return earlier;
    if (before) return [...earlier, ...page];
    const last = page.length === this.size ? page.at(-1).changed : 0;
    return [...page, ...earlier.filter((talk) => talk.changed < last)];
  }

  async #fold(name) {
    if (!this.#open.delete(name)) this.#open.add(name);
    keep(this.#open);
    this.show();
    await this.load();
  }

  async #moreInside(name) {
    this.#filed.set(name, await this.#inside(name, this.#filed.get(name).at(-1).changed));
    this.show();
  }

  async #renameFolder(folder, name) {
    if (this.#open.delete(folder) && name) this.#open.add(name);
    keep(this.#open);
    await this.attempt(() => this.calls.put("/folders", { folder, name }));
    await this.load();
  }

  show() {
    const pinned = new Set(this.#pinned.map((talk) => talk.id));
    const free = (talk) => !pinned.has(talk.id);
    const folders = this.#folders.flatMap((name) => {
      const talks = this.#open.has(name) ? (this.#filed.get(name) ?? []) : [];
      const rows = talks.filter(free).map((talk) => ({ ...talk, filed: true }));
      const whole = talks.length % this.size || !talks.length;
      return [{ id: `folder ${name}`, folder: name }, ...rows, ...(whole ? [] : [{ id: `more ${name}`, more: name }])];
    });
    const all = [...this.#pinned, ...folders, ...this.#all.filter(free)];
    let before = "";
    const days = new Map();
    for (const talk of all) {
      const group = talk.folder || talk.filed || talk.more ? words("talks.folders") : day(talk);
      if (group !== before) days.set(talk.id, group);
      before = group;
    }
    keyed(this.at("talks"), all, (talk) => talk.id, (talk) => (talk.folder ? this.#folder() : talk.more ? this.#moreRow() : this.#row()));
    for (const row of this.at("talks").children) {
      // The first row of a group shows its name above.
      if (days.has(row.dataset.key)) row.dataset.day = days.get(row.dataset.key);
      else delete row.dataset.day;
    }
  }

  #folder() {
    const name = make("span", {});
    const open = make("button", { type: "button", className: "folder", onclick: () => this.#fold(row.name) }, icon("folder"), name);
    const rename = make("button", { type: "button", className: "quiet sign" }, icon("pencil"));
    rename.addEventListener("click", () => {
      retype(row, row.name, words("talks.folder_name"), (to) => this.#renameFolder(row.name, to.slice(0, 60)));
    });
    const away = make("button", { type: "button", className: "quiet sign" }, icon("close"));
    away.addEventListener("click", () => {
      if (confirm(words("talks.dissolve_sure", { name: row.name }))) this.#renameFolder(row.name, "");
    });
    const row = make("li", {}, open, rename, away);
    row.update = ({ folder }) => {
      row.name = folder;
      say(name, folder);
      open.ariaExpanded = String(this.#open.has(folder));
      rename.title = rename.ariaLabel = words("talks.rename_folder", { name: folder });
      away.title = away.ariaLabel = words("talks.dissolve", { name: folder });
    };
    return row;
  }

  #moreRow() {
    const row = make("li", { className: "filed" }, make("button", { type: "button", onclick: () => this.#moreInside(row.name) }, words("chat.more")));
    row.update = ({ more }) => (row.name = more);
    return row;
  }

  #row() {
    const name = make("span", { className: "title" });
    const open = make("button", { type: "button", onclick: () => this.choose(row.talk) }, name);
    const act = (sign, done) => make("button", { type: "button", className: "quiet sign", onclick: done }, icon(sign));
    const pin = act("pin", () => this.change(row.talk, { pinned: !row.talk.settings.pinned }));
    const rename = act("pencil", () => {
      retype(row, row.talk.title, words("chat.new_title"), (title) => this.change(row.talk, { title }));
    });
    const move = act("folder", () => {
      const title = words("talks.move", { name: row.talk.title || words("chat.untitled") });
      chooseFolder(title, this.#folders, row.talk.settings.folder ?? "", (folder) => {
        if (folder) keep(this.#open.add(folder)); // so that it does not vanish from the list
        this.change(row.talk, { folder });
      });
    });
    const row = make("li", {}, open, pin, move, rename);
    row.update = (talk) => {
      row.talk = talk;
      const title = talk.title || words("chat.untitled");
      say(name, title);
      row.className = talk.filed ? "filed" : "";
      move.title = move.ariaLabel = words("talks.move", { name: title });
      open.setAttribute("aria-current", String(talk.id === this.shown()?.id));
      pin.ariaPressed = String(Boolean(talk.settings.pinned));
      pin.title = pin.ariaLabel = words(talk.settings.pinned ? "chat.unpin" : "chat.pin", { name: title });
      rename.title = rename.ariaLabel = words("chat.rename", { name: title });
    };
    return row;
  }
}

function opened() {
  try {
    return new Set(JSON.parse(localStorage.getItem(OPEN) ?? "[]"));
  } catch {
    return new Set();
  }
}

function keep(open) {
  try {
    localStorage.setItem(OPEN, JSON.stringify([...open]));
  } catch {
    // The storage is full: folders are open as long as the page.
  }
}
