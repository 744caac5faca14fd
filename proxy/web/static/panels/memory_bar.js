// A bar of memory: a segment for each model, in the pattern of its phase, and what is free.

import { keyed, make, say } from "./dom.js";
import { binary } from "./form.js";
import { words } from "./models_words.js";

/** Create the bar of a device; `update(bar)` shows its limit and segments. */
export function memory({ device }) {
  const title = make("span", { className: "name" }, words.device(device));
  const sums = make("span", { className: "note" });
  const track = make("div", { className: "track", role: "img" });
  const element = make("figure", {}, make("figcaption", {}, title, " ", sums), track);
  element.update = ({ limit, segments }) => {
    const sum = (...phases) =>
      segments.filter((one) => phases.includes(one.phase)).reduce((all, one) => all + one.size, 0);
    const used = sum("loaded", "stopping", "loading");
    const held = binary(sum("loaded", "stopping"));
    const reserved = sum("loading") ? binary(sum("loading")) : "";
    const rest = limit === null ? null : limit - used;
    const text = words.sums(held, reserved, limit && binary(limit), rest && binary(Math.abs(rest)), rest < 0);
    say(sums, text);
    const named = segments.map((one) => words.segment(one.model, binary(one.size), one.phase));
    track.setAttribute("aria-label", [words.device(device), text, ...named].join("; "));
    track.hidden = limit === null;
    keyed(track, segments, (one) => segments.indexOf(one), segment);
    for (const child of track.children) child.fit(Math.max(limit ?? 0, used, 1));
  };
  return element;
}

function segment() {
  const name = make("span", {});
  const element = make("span", { className: "segment" }, name);
  let size = 0;
  element.update = (one) => {
    size = one.size;
    element.dataset.phase = one.phase;
    say(name, one.model || words.other);
    element.title = words.segment(one.model, binary(one.size), one.phase);
  };
  element.fit = (all) => element.style.setProperty("--part", `${(100 * size) / all}%`);
  return element;
}
