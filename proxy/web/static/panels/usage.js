// The usage page: sums of requests, drawn again when another time or scope is chosen.

import { keyed, make, say } from "./dom.js";
import { count, measure, percent, span } from "./form.js";
import { COUNT, DAYS, MEASURE, Plot, SPAN } from "./plots.js";
import { words } from "./words.js";

const DAY = 86400;
const MODELS = 6; // with a plot of their own

const page = document.getElementById("usage");
const form = page.querySelector("form");
const at = (name) => page.querySelector(`[data-part="${name}"]`);
const tokens = (sums) => sums.prompt_tokens + sums.completion_tokens;
const priced = page.dataset.priced === "true";
const plots = [
  [words("usage.tokens"), tokens, COUNT],
  [words("usage.number.requests"), (sums) => sums.requests, COUNT],
  [words("usage.number.slots"), (sums) => sums.slot_seconds, SPAN],
  ...(priced ? [[words("usage.number.money"), (sums) => sums.money, MEASURE]] : []),
].map(([name, value, kind]) => ({ name, value, kind, plot: null }));
let shown = null; // the sums on the page
let reads = 0;

function plot(place, name, kind) {
  const note = (value) => words("usage.plot_note", { name, days: shown?.days ?? 0, value: kind.shown(value ?? 0) });
  return new Plot(place, name, kind, note, DAYS);
}

async function load() {
  const number = ++reads;
  say(at("state"), words("usage.loading"));
  try {
    const query = new URLSearchParams(new FormData(form));
    const answer = await fetch(`${page.dataset.sums}?${query}`);
    if (!answer.ok) throw new Error(answer.statusText);
    const sums = await answer.json();
    if (number !== reads) return; // another choice came first
    show(sums);
    say(at("state"), "");
  } catch {
    if (number === reads) say(at("state"), words("usage.failed"));
  }
}

function show(sums) {
  shown = sums;
  numbers(sums.total);
  at("limits").hidden = !sums.limits.length;
  keyed(at("limit-list"), sums.limits, (entry) => `${entry.level} ${entry.quantity} ${entry.period} ${entry.is_budget} ${entry.model}`, limit);
  const used = sums.total.requests > 0;
  at("nothing").hidden = used;
  at("numbers").hidden = at("used").hidden = !used;
  at("export").href = `${page.dataset.export}?${new URLSearchParams({ start_time: sums.begin, scope: form.elements.scope?.value ?? "own" })}`;
  if (!used) return;
  for (const series of plots) {
    series.plot ??= plot(at("days"), series.name, series.kind); // once there is room for it
    series.plot.set(...columns(sums.by_day, series.value));
  }
  rows(at("models"), sums.models, (row) => row.model || "–", (row) => row.model);
  keyed(at("model-plots"), sums.models.slice(0, MODELS).filter(tokens), (row) => row.model, modelPlot);
  at("users").hidden = !sums.users.length;
  rows(at("users"), sums.users, (row) => row.user || "–", (row) => row.user);
  const keys = at("keys");
  if (!keys) return;
  keys.hidden = !sums.keys.length;
  rows(keys, sums.keys, (row) => row.name, (row) => row.key);
}

function numbers(total) {
  const cards = [
    ["requests", count(total.requests), words("usage.failures", { n: count(total.failed) })],
    ["prompt", count(total.prompt_tokens), ""],
    [
      "saved",
      count(total.cached_tokens),
      total.cached_tokens ? words("usage.saved_note", { share: percent(total.cached_tokens / total.prompt_tokens), time: span(total.saved_seconds) }) : "",
    ],
    ["answer", count(total.completion_tokens), ""],
    ["slots", span(total.slot_seconds), ""],
    ["queue", span(total.queue_seconds), ""],
  ];
  if (priced) cards.push(["money", measure(total.money), words("usage.money_note")]);
  keyed(at("numbers"), cards, ([name]) => name, ([name]) => {
    const value = make("dd", { className: "number" });
    const note = make("dd", { className: "note" });
    const element = make("div", { className: "card" }, make("dt", {}, words(`usage.number.${name}`)), value, note);
    element.update = ([, text, remark]) => {
      say(value, text);
      say(note, remark);
    };
    return element;
  });
}

function limit() {
  const meter = make("meter", { min: 0 });
  const text = make("span", {});
  const note = make("span", { className: "note" });
  const element = make("li", { className: "card" }, text, meter, note);
  element.update = (entry) => {
    const amount = entry.quantity === "money" ? measure : entry.quantity === "slot_seconds" ? span : count;
    const period = entry.is_budget ? `usage.budget.${entry.period || "all"}` : `usage.window.${entry.period}`;
    const values = { used: amount(entry.used), most: amount(entry.most), period: words(period) };
    const whole = words("usage.limit", { ...values, unit: words(`usage.unit.${entry.quantity}`) });
    const used = entry.model ? words("usage.of_model", { limit: whole, model: entry.model }) : whole;
    meter.max = Math.max(1, entry.most);
    meter.value = entry.used;
    meter.setAttribute("aria-label", used);
    say(text, used);
    const again = entry.used && entry.reset !== null ? words("usage.free_again", { time: span(entry.reset) }) : "";
    say(note, [words(`usage.level.${entry.level}`), entry.warns ? words("usage.warns") : "", again].filter(Boolean).join(" · "));
  };
  return element;
}

function rows(section, sums, name, key) {
  keyed(section.querySelector("tbody"), sums, key, (first) => {
    const cells = Array.from({ length: priced ? 6 : 5 }, () => make("td"));
    const element = make("tr", {}, make("th", { scope: "row" }, name(first)), cells);
    element.update = (row) => {
      const saved = row.prompt_tokens ? row.cached_tokens / row.prompt_tokens : 0;
      say(cells[0], count(row.requests));
      say(cells[1], count(row.prompt_tokens));
      say(cells[2], percent(saved));
      say(cells[3], count(row.completion_tokens));
      say(cells[4], span(row.slot_seconds));
      if (priced) say(cells[5], measure(row.money));
    };
    return element;
  });
}

function modelPlot({ model }) {
  const element = make("div");
  let drawn = null;
  element.update = () => {
    drawn ??= plot(element, words("usage.tokens_of", { name: model || "–" }), COUNT);
    drawn.set(...columns(shown.by_model.filter((row) => row.model === model), tokens));
  };
  return element;
}

/** The days, and the sum of `value` on each. */
function columns(sums, value) {
  const { begin, days } = shown;
  const times = Array.from({ length: days }, (_, day) => begin + day * DAY);
  const values = times.map(() => 0);
  for (const row of sums) values[(row.at - begin) / DAY] += value(row);
  return [times, values];
}

form.addEventListener("change", load);
form.addEventListener("submit", (event) => event.preventDefault());
load();
