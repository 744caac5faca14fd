// The command palette: finds conversations, models, pages, settings and actions by their names.

import { icon, keyed, make, say } from "./dom.js";
import { words } from "./words.js";

const PAUSE = 150; // milliseconds after the last key until conversations are searched
const MOST = 8; // conversations
const RECENT = 5; // of them before anything is typed
const PATIENCE = 200; // milliseconds that the list waits for them
const ICONS = { page: "page", action: "action", setting: "sliders", model: "model", preset: "sliders" };
const body = document.body;

/** What the page offers: its elements with `data-command`, which names their group. A select offers
 * its options, the label of a setting its field, everything else is clicked. */
function commands() {
  const all = [];
  for (const element of document.querySelectorAll("[data-command]")) {
    if (element.disabled || element.closest("[hidden]:not([data-command-folded])")) continue;
    const { command } = element.dataset;
    const group = words(`palette.group.${command}`);
    const sign = element.querySelector("use")?.href.baseVal.split("#")[1] ?? ICONS[command];
    const add = (name, run) => name.trim() && all.push({ group, sign, name: name.trim(), run });
    if (element.tagName === "SELECT") {
      for (const option of element.options) if (!option.disabled) add(option.textContent, () => choose(element, option));
    } else add(nameOf(element), command === "setting" ? () => adjust(element) : () => element.click());
  }
  return all;
}

function nameOf(element) {
  const texts = [...element.childNodes].filter((child) => child.nodeType === Node.TEXT_NODE);
  const drawn = element.querySelector("svg");
  return element.dataset.name || (!drawn && element.title) || element.ariaLabel || texts.map((child) => child.textContent).join("");
}

function choose(select, option) {
  select.value = option.value;
  select.dispatchEvent(new Event("change", { bubbles: true }));
}

/** Show the panel of a setting, and focus its field. */
function adjust(label) {
  const panel = label.closest("[data-command-folded]");
  if (panel?.hidden) document.querySelector(`[aria-controls="${panel.id}"]`)?.click();
  const fold = label.closest("details");
  if (fold) fold.open = true;
  label.querySelector("input, select, textarea")?.focus();
}

async function conversations(search) {
  const answer = await fetch(`${body.dataset.conversations}?${new URLSearchParams({ search })}`);
  if (!answer.ok) return [];
  const talks = (await answer.json()).slice(0, MOST);
  const group = words("palette.group.conversation");
  const open = (id) => () => location.assign(`${body.dataset.home}#${id}`);
  return talks.map((talk) => ({ group, sign: "chat", name: talk.title || words("chat.untitled"), run: open(talk.id) }));
}

/** Whether a name has all words of a search, ignoring case. */
function fits({ group, name }, search) {
  const text = `${group} ${name}`.toLocaleLowerCase();
  return search.toLocaleLowerCase().split(/\s+/).every((word) => text.includes(word));
}

class Palette {
  #shown = [];
  #at = 0;
  #reads = 0;
  talks = [];
  #pause = 0;

  constructor() {
    const label = words("palette.label");
    this.list = make("ul", { id: "palette-list", role: "listbox", "aria-label": label });
    this.input = make("input", { type: "text", role: "combobox", autocomplete: "off", spellcheck: false, maxLength: 200 });
    this.input.placeholder = this.input.ariaLabel = label;
    this.input.setAttribute("aria-controls", this.list.id);
    this.input.ariaExpanded = "true";
    this.input.ariaAutoComplete = "list";
    this.none = make("p", { className: "none", role: "status" });
    const keys = make("p", { className: "keys" }, words("palette.keys"));
    this.dialog = make("dialog", { className: "palette", "aria-label": label }, this.input, this.list, this.none, keys);
    this.dialog.addEventListener("close", () => this.dialog.remove());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.input.addEventListener("input", () => this.#search());
    this.dialog.addEventListener("keydown", (event) => this.#key(event));
  }

  async open() {
    this.before = document.activeElement;
    this.commands = commands();
    body.append(this.dialog);
    this.dialog.showModal();
    // Recent conversations come first, unless they come late: then nothing moves for them.
    const recent = conversations("").catch(() => []);
    const talks = await Promise.race([recent, new Promise((done) => setTimeout(done, PATIENCE, []))]);
    this.talks = talks.slice(0, RECENT);
    if (!this.#reads) this.#show(this.#begun());
  }

  /** What is listed before anything is typed. */
  #begun = () => [...this.talks, ...this.commands];

  #search() {
    this.#at = 0;
    this.#reads += 1; // conversations of the search before this one come too late
    const search = this.input.value.trim();
    clearTimeout(this.#pause);
    if (!search) return this.#show(this.#begun());
    this.#show(this.commands.filter((command) => fits(command, search)));
    this.#pause = setTimeout(() => this.#ask(search), PAUSE);
  }

  async #ask(search) {
    const mine = ++this.#reads;
    const talks = await conversations(search).catch(() => []);
    if (mine !== this.#reads) return;
    // Conversations come last: what was found at once does not move when they arrive.
    this.#show([...this.commands.filter((command) => fits(command, search)), ...talks]);
  }

  #show(matches) {
    this.#shown = matches;
    this.#at = Math.min(this.#at, Math.max(0, this.#shown.length - 1));
    const items = this.#shown.map((command, n) => ({ ...command, n }));
    keyed(this.list, items, (command) => command.n, () => this.#row());
    say(this.none, items.length ? "" : words("palette.none"));
    this.#point();
  }

  #row() {
    const name = make("span", { className: "name" });
    const group = make("span", { className: "group" });
    const row = make("li", { role: "option" }, icon("page"), name, group);
    row.addEventListener("click", () => this.#run());
    row.addEventListener("pointermove", () => {
      if (this.#at === row.n) return;
      this.#at = row.n;
      this.#point(false);
    });
    row.update = (command) => {
      row.n = command.n;
      row.id = `palette-${command.n}`;
      row.querySelector("use").setAttribute("href", icon(command.sign).firstChild.getAttribute("href"));
      say(name, command.name);
      say(group, command.group);
    };
    return row;
  }

  #point(scroll = true) {
    for (const row of this.list.children) row.ariaSelected = String(row.n === this.#at);
    const row = this.list.children[this.#at];
    if (row) this.input.setAttribute("aria-activedescendant", row.id);
    else this.input.removeAttribute("aria-activedescendant");
    if (scroll) row?.scrollIntoView({ block: "nearest" });
  }

  #key(event) {
    if (event.isComposing) return;
    const last = this.#shown.length - 1;
    const move = { ArrowDown: this.#at < last ? this.#at + 1 : 0, ArrowUp: this.#at > 0 ? this.#at - 1 : last }[event.key];
    if (move !== undefined) {
      this.#at = Math.max(0, move);
      this.#point();
    } else if (event.key === "Enter") this.#run();
    else if (event.key === "Tab") this.input.focus(); // the list is reached by the arrow keys
    else return;
    event.preventDefault();
  }

  #run() {
    const chosen = this.#shown[this.#at];
    if (!chosen) return;
    this.dialog.close();
    this.before?.focus?.();
    chosen.run();
  }
}

/** Open the palette. */
export const open = () => new Palette().open();
