// The part of the models page that downloads models, for those who may: a form, the quantizations of a
// repository, and the download under way.

import { keyed, make, say } from "./dom.js";
import { binary, percent, whole_number } from "./form.js";
import { words } from "./words.js";

/** Make the part of the page work. Returns what shows the state of the last download. */
export function downloads(section, calls) {
  const at = (name) => section.querySelector(`[data-part="${name}"]`);
  const [form, note, offers, now, bar] = ["pull-form", "pull-note", "offers", "pulling", "pull-bar"].map(at);

  async function call(work) {
    say(note, "");
    try {
      return await work();
    } catch (error) {
      if (error.status === undefined) throw error;
      say(note, error.message || words("models.failed_request"));
      return null;
    }
  }

  const begin = (model) => call(() => calls.post("/downloads", { model }));

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = form.elements.model.value.trim();
    const repository = name.startsWith("hf:") ? name : `hf:${name}`;
    form.ariaBusy = "true";
    const found = await call(() => calls.post("/downloads/list", { model: repository }));
    form.ariaBusy = "false";
    const [, base] = /^(hf:[^:]*)/.exec(repository);
    keyed(offers, found?.models ?? [], (offer) => `${base}:${offer.name}`, (offer) => row(base, offer));
    if (found?.context) say(note, words("models.made_for", { n: whole_number(found.context) }));
  });

  function row(base, { name }) {
    const title = make("h3", {}, name);
    const about = make("p", { className: "note" });
    const button = make(
      "button",
      { type: "button", className: "quiet", "aria-label": `${words("models.pull")} ${name}`, onclick: () => begin(`${base}:${name}`) },
      words("models.pull"),
    );
    const element = make("article", { className: "card model" }, make("header", {}, make("div", {}, title, about), button));
    element.update = ({ size, fits }) => say(about, [binary(size), fits ? "" : words("models.does_not_fit")].filter(Boolean).join(" · "));
    return element;
  }

  at("pull-cancel").addEventListener("click", () => call(() => calls.remove("/downloads")));

  return (state) => {
    now.hidden = !state;
    if (!state) return;
    at("pull-cancel").hidden = state.ended;
    bar.hidden = state.ended;
    if (state.size) bar.value = state.bytes / state.size;
    else bar.removeAttribute("value");
    at("pull-state").dataset.state = state.error ? "down" : state.ended ? "up" : "busy";
    say(at("pull-state"), text(state));
  };
}

function text({ name, bytes, size, checking, ended, error }) {
  if (error) return `${name}: ${error}`;
  if (ended) return words("models.pulled", { name });
  if (checking) return words("models.checking", { name });
  const part = size ? percent(bytes / size) : percent(0);
  return words("models.pulling", { name, part, done: binary(bytes), size: binary(size) });
}
