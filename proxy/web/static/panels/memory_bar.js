// A bar of memory: a segment for each model, in the pattern of its phase, and what is free.

import { keyed, make, say } from "./dom.js";
import { binary } from "./form.js";
import { words } from "./words.js";

/** Create the bar of a device; `update(bar)` shows its limit and segments. */
export function memory({ device }) {
  const title = make("span", { className: "name" }, nameOf(device));
  const sums = make("span", { className: "note" });
  const track = make("div", { className: "track", role: "img" });
  const element = make("figure", {}, make("figcaption", {}, title, " ", sums), track);
  element.update = ({ limit, segments }) => {
    const sum = (...phases) =>
      segments.filter((model) => phases.includes(model.phase)).reduce((all, model) => all + model.size, 0);
    const used = sum("loaded", "stopping", "loading");
    const text = summary(sum("loaded", "stopping"), sum("loading"), limit);
    say(sums, text);
    track.setAttribute("aria-label", [nameOf(device), text, ...segments.map(described)].join("; "));
    track.hidden = limit === null;
    keyed(track, segments, (model) => segments.indexOf(model), segment);
    for (const child of track.children) child.fit(Math.max(limit ?? 0, used, 1));
  };
  return element;
}

const nameOf = (device) => (device ? words("models.card", { n: device - 1 }) : words("models.memory"));

function summary(held, reserved, limit) {
  const rest = limit - held - reserved;
  const size = binary(Math.abs(rest));
  return [
    limit ? words("models.held_of", { held: binary(held), limit: binary(limit) }) : words("models.held", { held: binary(held) }),
    reserved ? words("models.reserved", { size: binary(reserved) }) : "",
    limit && rest ? words(rest < 0 ? "models.too_much" : "models.rest", { size }) : "",
  ]
    .filter(Boolean)
    .join(words("common.comma"));
}

function described({ model, size, phase }) {
  const values = { name: model || words("models.other"), size: binary(size), phase: words(`models.phase.${phase}`) };
  return words("models.segment", values);
}

function segment() {
  const name = make("span", {});
  const element = make("span", { className: "segment" }, name);
  let size = 0;
  element.update = (model) => {
    size = model.size;
    element.dataset.phase = model.phase;
    say(name, model.model || words("models.other"));
    element.title = described(model);
  };
  element.fit = (all) => element.style.setProperty("--part", `${(100 * size) / all}%`);
  return element;
}
