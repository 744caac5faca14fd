// The model of the next question, and its state.

import { make, say } from "../panels/dom.js";
import { span } from "../panels/form.js";
import { words } from "../panels/words.js";

const LOOK = 4000; // milliseconds between two polls
const SOON = 1000; // the same while the chosen model is loaded
const DOTS = { ready: "up", busy: "busy", loading: "busy", waiting: "busy", stopping: "busy", failed: "down", down: "down" };

export class Models {
  #known = new Map();
  #next = 0;

  /** `chosen(model)` is called with the data of the chosen model whenever they are read. */
  constructor(at, calls, chosen) {
    Object.assign(this, { at, calls, chosen });
    this.select = at("model");
    this.select.addEventListener("change", () => this.#show());
    document.addEventListener("visibilitychange", () => this.#look());
    this.#look();
  }

  /** Whether the chosen model accepts images. */
  sees = () => this.select.selectedOptions[0]?.dataset.sees === "true";

  async #look() {
    clearTimeout(this.#next);
    if (document.hidden) return;
    const found = await this.calls.get("/models").catch(() => null);
    if (found) this.#take(found);
    clearTimeout(this.#next);
    const { state } = this.#known.get(this.select.value) ?? {};
    this.#next = setTimeout(() => this.#look(), state === "loading" || state === "waiting" ? SOON : LOOK);
  }

  #take(found) {
    this.#known = new Map(found.map((one) => [one.name, one]));
    const listed = new Map([...this.select.options].map((one) => [one.value, one]));
    for (const one of found) {
      const option = listed.get(one.name) ?? make("option", { value: one.name });
      listed.delete(one.name);
      option.dataset.sees = String(one.sees);
      say(option, ["ready", "busy", "unknown"].includes(one.state) ? one.title : `${one.title} · ${told(one)}`);
      if (!option.parentElement) this.select.append(option);
    }
    // A model that is gone stays while it is chosen: only the user changes the choice.
    for (const gone of listed.values()) if (!gone.selected || !found.length) gone.remove();
    this.#show();
  }

  #show() {
    const one = this.#known.get(this.select.value);
    const state = one ? one.state : this.#known.size ? "gone" : "unknown";
    this.at("model-dot").dataset.state = DOTS[state] ?? (state === "gone" ? "down" : "");
    say(this.at("model-state"), one ? told(one) : words(`chat.states.${state}`));
    this.at("model-state").title = state === "down" ? words("errors.code.no_backend") : "";
    if (one) this.chosen(one);
  }
}

function told({ state, place, left }) {
  if (state === "waiting") return words("chat.in_line", { place });
  if (state === "loading" && left) return words("chat.loading", { left: span(Math.ceil(left)) });
  return words(`chat.states.${state}`);
}
