// The settings panel: the settings of each model and their presets, kept in this browser.

import { make, say } from "../panels/dom.js";
import { count, measure } from "../panels/form.js";
import { kinds } from "./settings.js";
import { words } from "../panels/words.js";

// Keys in the browser's local storage, for each user of the browser.
const { owner } = document.getElementById("chat").dataset;
const CHOICES = `slotproxy choices ${owner}`; // the model, the mode and the search engine
const VALUES = `slotproxy settings of models ${owner}`; // by model: values by field
const PRESETS = `slotproxy presets of models ${owner}`; // by model, by name: values by field

// These change only the parameters of sampling.
const BUILT_IN = { "": {}, precise: { temperature: "0.1", top_p: "0.9" }, creative: { temperature: "1.1", top_p: "0.95" } };
const OWN = "own "; // before the names of presets that the user saved

export class Presets {
  #form;
  #at;
  #fields;

  constructor(page, form, at) {
    this.#form = form;
    this.#at = at;
    this.#fields = [...at("settings").querySelectorAll("[form='ask']")];
    page.addEventListener("change", (event) => this.#changed(event.target));
    at("preset").addEventListener("change", () => this.#apply(at("preset").value));
    at("preset-save").addEventListener("click", () => this.#save());
    at("preset-delete").addEventListener("click", () => this.#delete());
    at("reset").addEventListener("click", () => {
      this.#fill({});
      this.#keep();
    });
    const chosen = read(CHOICES);
    for (const name of ["model", "kind", "engine"]) {
      const field = form.elements[name];
      const is_choice = field && (!field.options || [...field.options].some((option) => option.value === chosen[name]));
      if (chosen[name] && is_choice) field.value = chosen[name];
    }
    if (document.querySelector('[name="kind"]:checked')?.disabled) form.elements.kind.value = "chat";
    this.load();
    kinds(form);
  }

  /** The model that the user chose last. */
  get model() {
    return read(CHOICES).model;
  }

  /** Show the defaults of the chosen model: `{defaults, context}`. */
  defaults({ defaults, context }) {
    for (const field of this.#fields) {
      const name = field.name === "top_k_sampling" ? "top_k" : field.name === "top_k" ? "" : field.name;
      if (!field.dataset.default) continue;
      const longest = Number(field.dataset.default); // of an answer
      if (longest) field.placeholder = count(context ? Math.min(longest, context) : longest);
      else field.placeholder = name in defaults ? measure(defaults[name]) : field.dataset.default;
    }
    say(this.#at("context"), context ? words("chat.context", { n: count(context) }) : "");
  }

  get #chosen() {
    return this.#form.elements.model.value;
  }

  #values = () => Object.fromEntries(this.#fields.map((field) => [field.name, field.value]));

  #changed(field) {
    const { kind, engine } = Object.fromEntries(new FormData(this.#form));
    const { model } = this.#form.elements;
    write(CHOICES, { ...read(CHOICES), kind, ...(engine && { engine }), ...(field === model && { model: model.value }) });
    if (field === model) this.load();
    else if (this.#fields.includes(field)) this.#keep();
    kinds(this.#form);
  }

  #keep() {
    write(VALUES, { ...read(VALUES), [this.#chosen]: this.#values() });
    this.#list();
  }

  /** Fill the fields with the settings of the chosen model. */
  load() {
    this.#fill(read(VALUES)[this.#chosen] ?? {});
    this.#list();
  }

  #fill(values) {
    for (const field of this.#fields) field.value = values[field.name] ?? first(field);
    const more = this.#at("more-settings");
    more.open ||= this.#fields.some((field) => more.contains(field) && field.value !== first(field));
  }

  #unset = () => Object.fromEntries(this.#sampling().map((field) => [field.name, ""]));
  #sampling = () => this.#fields.filter((field) => field.dataset.default && !["max_tokens", "history"].includes(field.name));
  #own = () => read(PRESETS)[this.#chosen] ?? {};

  #apply(name) {
    const own = name.startsWith(OWN) && this.#own()[name.slice(OWN.length)];
    this.#fill(own || { ...this.#values(), ...this.#unset(), ...BUILT_IN[name] });
    this.#keep();
  }

  /** List the presets, and choose that of the present values. */
  #list() {
    const select = this.#at("preset");
    for (const old of select.querySelectorAll("[data-own]")) old.remove();
    const all = { ...BUILT_IN };
    for (const [name, values] of Object.entries(this.#own())) {
      const option = make("option", { value: OWN + name }, name);
      option.dataset.own = "";
      select.append(option);
      all[OWN + name] = values;
    }
    const fits = (name) =>
      (name.startsWith(OWN) ? this.#fields : this.#sampling()).every((field) => field.value === (all[name][field.name] ?? first(field)));
    // The user's own come first: they say more.
    select.value = Object.keys(all).findLast(fits) ?? "custom";
    this.#at("preset-save").hidden = select.value.startsWith(OWN);
    this.#at("preset-delete").hidden = !select.value.startsWith(OWN);
  }

  #save() {
    const name = prompt(words("chat.preset_name"))?.trim().slice(0, 60);
    if (!name) return;
    write(PRESETS, { ...read(PRESETS), [this.#chosen]: { ...this.#own(), [name]: this.#values() } });
    this.#list();
  }

  #delete() {
    const own = this.#own();
    delete own[this.#at("preset").value.slice(OWN.length)];
    write(PRESETS, { ...read(PRESETS), [this.#chosen]: own });
    this.#list();
  }
}

/** The value of a field that was never changed. */
const first = (field) => field.defaultValue ?? field.options[0]?.value ?? "";

function read(key) {
  try {
    const stored = JSON.parse(localStorage.getItem(key) ?? "{}");
    return typeof stored === "object" && stored !== null ? stored : {};
  } catch {
    return {};
  }
}

function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // The storage is full: the settings last as long as the page.
  }
}
