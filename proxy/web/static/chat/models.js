// The model of the next question, and its state.

import { make, say } from "../panels/dom.js";
import { seconds } from "./waiting.js";
import { words } from "../panels/words.js";

const LOOK = 4000; // milliseconds between two polls
const SOON = 1000; // the same while the chosen model is loaded
const DOTS = { ready: "up", busy: "busy", loading: "busy", waiting: "busy", stopping: "busy", failed: "down", down: "down", gone: "down" };
const QUIET = ["ready", "busy", "unknown"]; // states that a list of models does not name

export class Models {
  #models = new Map();
  #unread = []; // the servers whose models are unknown
  #next = 0;

  /** `chosen(model)` is called with the data of the chosen model whenever they are read. */
  constructor(at, calls, chosen) {
    Object.assign(this, { at, calls, chosen });
    this.select = at("model");
    this.select.addEventListener("change", () => this.#show());
    document.addEventListener("visibilitychange", () => this.look());
    this.read = this.look(); // done when the states were read for the first time
  }

  /** Whether the chosen model accepts images. */
  sees = () => this.select.selectedOptions[0]?.dataset.sees === "true";

  get = (name) => this.#models.get(name);

  /** The name of the model for a new conversation: the gateway lists it first. */
  first = () => this.#models.keys().next().value;

  /** Whether a model fails or is down. */
  lost = (name) => DOTS[this.#models.get(name)?.state] === "down";

  /** The name of the chosen model if the gateway has it no more. */
  get gone() {
    const { value, selectedOptions } = this.select;
    return selectedOptions[0]?.dataset.gone !== undefined || (this.#models.size && !this.#models.has(value)) ? value : "";
  }

  /** The server that may have the chosen model, if that is gone. */
  get server() {
    return this.#unread[0]?.name;
  }

  /** Choose a model, which may be gone. */
  choose(name) {
    if (name && ![...this.select.options].some((option) => option.value === name)) {
      const option = make("option", { value: name }, name);
      option.dataset.gone = "";
      this.select.append(option);
    }
    if (name) this.select.value = name;
    this.#show();
  }

  /** Read the states of the models. */
  async look() {
    clearTimeout(this.#next);
    if (document.hidden) return;
    const answer = await this.calls.get("/models").catch(() => null);
    if (answer) this.#take(answer);
    clearTimeout(this.#next);
    const { state } = this.#models.get(this.select.value) ?? {};
    this.#next = setTimeout(() => this.look(), state === "loading" || state === "waiting" ? SOON : LOOK);
  }

  #take({ models, unread }) {
    this.#unread = unread;
    this.#models = new Map(models.map((model) => [model.name, model]));
    const listed = new Map([...this.select.options].map((option) => [option.value, option]));
    for (const model of models) {
      const option = listed.get(model.name) ?? make("option", { value: model.name });
      listed.delete(model.name);
      option.dataset.sees = String(model.sees);
      delete option.dataset.gone;
      if (!option.parentElement) this.select.append(option);
    }
    // A model that is gone stays while it is chosen: only the user changes the choice.
    for (const gone of listed.values()) if (!gone.selected || !models.length) gone.remove();
    this.#show();
  }

  #show() {
    const { value } = this.select;
    for (const option of this.select.options) {
      const model = this.#models.get(option.value);
      // The state of the chosen one stands beside it.
      if (model) say(option, option.value === value || QUIET.includes(model.state) ? model.title : `${model.title} · ${stateText(model)}`);
    }
    const model = this.#models.get(value);
    const state = model ? model.state : this.server ? "down" : this.gone ? "gone" : "unknown";
    this.at("model-dot").dataset.state = DOTS[state] ?? "";
    const note = this.at("model-state");
    say(note, model ? stateText(model) : words(`chat.states.${state}`));
    note.title = state === "down" ? words("errors.code.no_backend") : note.textContent;
    this.select.title = this.select.selectedOptions[0]?.textContent ?? "";
    for (const part of document.querySelectorAll("[data-sees-only]")) part.hidden = !this.sees();
    for (const part of document.querySelectorAll("[data-sees-not]")) part.hidden = this.sees();
    if (model) this.chosen(model);
  }
}

function stateText({ state, place, left }) {
  if (state === "waiting") return words("chat.in_line", { place });
  if (state === "loading" && left) return words("chat.loading", { left: seconds(Math.ceil(left)) });
  return words(`chat.states.${state}`);
}
