// Two models side by side: both answer the same question, and the conversation goes on from the answer
// that the user keeps. The answers are versions of one another, so nothing is lost.

import { make } from "../panels/dom.js";
import { words } from "../panels/words.js";

const { owner } = document.getElementById("chat").dataset;
const name = (talk) => `slotproxy compared ${owner} ${talk}`; // key in the tab's storage

/** The second model, chosen in the form. */
export class Compare {
  constructor(at, form, lost) {
    const button = at("compare");
    if (!button) return; // there is one model
    Object.assign(this, { button, lost, first: form.elements.model, second: form.elements.second });
    button.addEventListener("click", () => {
      const on = button.ariaPressed !== "true";
      button.ariaPressed = String(on);
      at("compare-with").hidden = !on;
      if (!on) return;
      this.#list();
      this.second.focus();
    });
    this.second.addEventListener("focus", () => this.#list());
    this.first.addEventListener("change", () => this.#list());
  }

  /** The second model, "" for none. */
  get model() {
    return this.button?.ariaPressed === "true" ? this.second.value : "";
  }

  /** Offer the models of the first choice, but for the chosen one; those that fail come last. */
  #list() {
    const others = [...this.first.options].filter((option) => option.value !== this.first.value);
    others.sort((option, other) => this.lost(option.value) - this.lost(other.value));
    const options = others.map((option) => make("option", { value: option.value, selected: option.value === this.second.value }, option.textContent));
    this.second.replaceChildren(...options);
  }

  /** Choose the model of the answer that is kept. */
  choose(model) {
    if (![...this.first.options].some((option) => option.value === model) || this.first.value === model) return;
    this.first.value = model;
    this.first.dispatchEvent(new Event("change", { bubbles: true }));
  }
}

/** The answers that are compared in a conversation, `[{id, model}, …]`, until one is kept. */
export function compared(talk) {
  try {
    return JSON.parse(sessionStorage.getItem(name(talk)) ?? "[]");
  } catch {
    return [];
  }
}

export function compare(talk, pair) {
  try {
    if (pair.length) sessionStorage.setItem(name(talk), JSON.stringify(pair));
    else sessionStorage.removeItem(name(talk));
  } catch {
    // The storage is full: the answers are versions of one another.
  }
}

/** An answer beside another: `keep(id, model)` is called to go on from it. */
export function column(element, { id, model }, keep) {
  const button = make("button", { type: "button", className: "quiet", onclick: () => keep(id, model) }, words("talks.keep"));
  const head = make("header", {}, make("strong", { title: model }, model), button);
  return make("section", { "aria-label": model }, head, element);
}
