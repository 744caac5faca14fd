// What an answer waits for before its first word, with the seconds so far.

import { make, say } from "../panels/dom.js";
import { span } from "../panels/form.js";
import { words } from "../panels/words.js";

const TICK = 1000; // milliseconds
const LOADS = ["stopped", "loading"]; // states of a model that the question loads

/** Format whole seconds as "4 s". */
export const seconds = (n) => (n < 60 ? words("chat.seconds", { n: Math.round(n) }) : span(n));

export class Waiting {
  place = 0; // in the queue
  #thinks = 0; // since when it reasons
  #began = performance.now();

  /** `model()` returns the state of the model, `look()` reads it anew, `hurry()` ends its reasoning. */
  constructor(name, model, look, hurry) {
    Object.assign(this, { name, model, look, hurry });
    // The seconds are not read out: they change all the time.
    this.what = make("span", { role: "status" });
    this.time = make("span", { "aria-hidden": "true" });
    this.element = make("p", { className: "note wait" }, this.what, this.time);
    this.#tick = setInterval(() => this.show(), TICK);
    look();
    this.show();
  }

  #tick;

  /** It reasons: tell for how long. */
  think() {
    if (!this.#thinks) this.element.append(this.#now());
    this.#thinks ||= performance.now();
    this.show();
  }

  #now() {
    const button = make("button", { type: "button" }, words("chat.answer_now"));
    button.addEventListener("click", () => {
      button.disabled = true;
      this.hurry();
    });
    return button;
  }

  end() {
    clearInterval(this.#tick);
  }

  show() {
    const model = this.model();
    const name = model?.title ?? this.name;
    const since = (then) => seconds((performance.now() - then) / 1000);
    let [what, time] = [words("chat.waiting", { name }), since(this.#began)];
    if (this.#thinks) [what, time] = [words("chat.thinks"), since(this.#thinks)];
    else if (model?.state === "down") what = words("chat.no_answer", { name });
    else if (this.place) [what, time] = [words("chat.in_line", { place: this.place }), ""];
    else if (model?.state === "waiting") [what, time] = [words("chat.in_line", { place: model.place }), ""];
    else if (LOADS.includes(model?.state)) {
      what = words("chat.loading_model", { name });
      if (model.left) time = words("chat.about", { time: seconds(Math.ceil(model.left)) });
      if (model.state === "stopped") this.look();
    }
    if (this.place === 1 || model?.state === "down") this.look(); // its server may be lost, or back
    say(this.what, what);
    say(this.time, time && ` · ${time}`);
  }
}
