// The status page: server-sent events that update its elements in place.

import { keyed, make, say } from "./dom.js";
import { count, measure, percent, span } from "./form.js";
import { follow } from "./live.js";
import { COUNT, Hour, MEASURE, Plot, SPAN } from "./plots.js";
import { words } from "./words.js";

const ABILITIES = ["chat", "native", "json_schema", "infill", "embeddings", "vision", "audio"];
const STORES = ["slot_save", "ram_cache"];
const LOADS = { loading: "busy", failed: "down" };
const FADES = 1800; // seconds until a slot's content is shown at its palest

const page = document.getElementById("status");
const at = (name) => page.querySelector(`[data-part="${name}"]`);
const hour = new Hour();
const noted = (name, shown) => (value) =>
  words("status.plot_note", {
    name: words(`status.number.${name}`),
    value: value === undefined ? words("status.no_value") : shown(value),
  });
const plots = [
  new Plot(at("plots"), words("status.number.rate"), COUNT, noted("rate", count)),
  new Plot(at("plots"), words("status.number.first_token"), SPAN, noted("first_token", span)),
  new Plot(at("plots"), words("status.number.speed"), MEASURE, noted("speed", measure)),
];
let drawn = 0;

function show(state) {
  numbers(state);
  backends(state);
  queue(state.queue);
  errors(state.hour.errors);
  hour.add(state.points);
  // Drawing the canvas is the only expensive step: draw once per sample, or when a request has
  // ended.
  const mark = `${Math.floor(state.at / hour.step)} ${state.hour.requests}`;
  if (mark !== drawn) plot(state);
  drawn = mark;
}

function plot(state) {
  const [times, ...columns] = hour.columns(state.at, state.started);
  columns.forEach((column, n) => plots[n].set(times, column));
}

function numbers(state) {
  const { minute, hour: last } = state;
  const failed = Object.values(last.errors).reduce((sum, n) => sum + n, 0);
  const shown = [
    ["running", count(state.running), ""],
    ["waiting", count(state.queue.length), ""],
    ["rate", count(minute.requests), words("status.rate_note")],
    ["first_token", last.first_token === null ? "–" : span(last.first_token), words("status.hour_mean")],
    ["speed", last.speed === null ? "–" : measure(last.speed), words("status.hour_mean")],
    [
      "saved",
      last.prompt ? percent(last.cached / last.prompt) : "–",
      words("status.saved_note", { cached: count(last.cached), prompt: count(last.prompt) }),
    ],
    ["errors", count(failed), words("status.errors_note", { requests: count(last.requests) })],
  ];
  keyed(at("numbers"), shown, (one) => one[0], ([name]) => {
    const value = make("dd", { className: "number" });
    const note = make("dd", { className: "note" });
    const element = make("div", { className: "card" }, make("dt", {}, words(`status.number.${name}`)), value, note);
    element.update = ([, text, remark]) => {
      say(value, text);
      say(note, remark);
    };
    return element;
  });
}

// -- backends and their slots

function backends(state) {
  const slots = new Map(state.slots.map((one) => [one.backend, one]));
  const all = state.backends.map((one) => ({ ...one, view: slots.get(one.id) }));
  at("no-backend").hidden = all.length > 0;
  keyed(at("backends"), all, (one) => one.id, card);
}

function card(backend) {
  const state = make("span", { className: "state" });
  const error = make("p", { className: "error" });
  const facts = make("dl", { className: "facts" });
  const titled = make("h4", {}, words("common.slots"));
  const guessed = make("p", { className: "note" }, words("status.slots_guessed"));
  const tiles = make("ol", { className: "slots", "aria-label": words("common.slots") });
  const element = make(
    "article",
    { className: "card backend" },
    make("header", {}, make("h3", {}, backend.id), state),
    error,
    facts,
    titled,
    guessed,
    tiles,
  );
  element.update = (one) => {
    const view = one.view;
    const name = stateOf(one.state, view);
    const idle = name === "up" && one.status !== "loaded" ? one.status : null; // a model on demand
    state.dataset.state = idle ? (LOADS[idle] ?? "off") : name;
    say(state, idle ? words(`status.load.${idle}`, {}, idle) : words(`status.state.${name}`));
    error.hidden = !one.error;
    say(error, one.error ?? "");
    keyed(facts, known(one), ([label]) => label, fact);
    const slots = view?.slots ?? []; // none until it is loaded
    guessed.hidden = !slots.length || (view.slots_known && !view.slots_learned);
    titled.hidden = tiles.hidden = !slots.length;
    say(guessed, words(view?.slots_learned ? "status.slots_learned" : "status.slots_guessed"));
    keyed(tiles, slots, (slot) => slot.id, tile);
  };
  return element;
}

function stateOf(state, view) {
  if (view?.draining) return "draining";
  if (state !== "up" || !view?.on_trial) return state;
  return view.circuit === "open" ? "paused" : "on_trial";
}

function known({ model, n_ctx, found, view }) {
  const facts = [[words("common.model"), model || "–"]];
  if (view?.tier) {
    facts.push([words("status.tier"), view.canary ? words("status.canary", { tier: view.tier, share: percent(view.canary) }) : view.tier]);
  }
  const instead = Object.entries(view?.instead ?? {});
  if (instead.length) {
    const parts = instead.map(([reason, n]) => words("status.instead_value", { reason: words(`status.passed.${reason}`, {}, reason), n: count(n) }));
    facts.push([words("status.instead"), parts.join(", ")]);
  }
  if (found) facts.push([words("status.kind"), found.provisional ? words("status.load.unloaded") : [found.dialect, found.build].filter(Boolean).join(" · ")]);
  if (n_ctx) facts.push([words("status.context"), words("common.tokens", { n: count(n_ctx) })]);
  if (found) {
    const can = [...ABILITIES, ...STORES].filter((name) => found[name]).map((name) => words(`status.ability.${name}`));
    facts.push([words("status.can"), can.join(", ") || words("status.nothing")]);
  }
  if (view?.requests) {
    facts.push([words("status.hit"), words("status.hit_value", { requests: percent(view.hit_rate), tokens: percent(view.cached_rate) })]);
  }
  if (view?.requests && view.prompt_per_second) {
    facts.push([words("status.prefill"), words("status.prefill_value", { n: count(view.prompt_per_second) })]);
  }
  if (view?.kept) facts.push([words("status.kept"), count(view.kept)]);
  if (view && view.moved + view.saved + view.restored) {
    facts.push([words("status.moved"), [view.moved, view.saved, view.restored].map(count).join(" / ")]);
  }
  return facts;
}

function fact([name]) {
  const value = make("dd");
  const row = make("div", {}, make("dt", {}, name), value);
  row.update = ([, text]) => say(value, text);
  return row;
}

function tile(slot) {
  const state = make("strong");
  const holds = make("span");
  const age = make("span", { className: "note" });
  const element = make("li", { className: "slot" }, make("span", { className: "number" }, String(slot.id)));
  element.append(state, holds, age);
  element.update = (one) => {
    const mine = one.conversation !== null;
    const kind = one.state === "busy" ? "busy" : mine ? "held" : "empty";
    element.dataset.kind = kind;
    say(state, words(`status.slot.${mine && one.state === "free" ? "held" : one.state}`));
    say(holds, mine ? words("status.holds", { tokens: count(one.tokens), turns: count(one.turns) }) : "");
    say(age, mine || kind === "busy" ? words("status.since", { span: span(Math.max(1, Math.round(one.since))) }) : "");
    element.title = mine ? words("status.chance", { part: percent(one.chance) }) : "";
    // The conversation decides the hue, its age the strength.
    const hue = mine ? Number.parseInt(one.conversation.slice(0, 6), 16) % 360 : 0;
    const strength = mine ? 1 - 0.8 * Math.min(one.since / FADES, 1) : 0;
    element.style.setProperty("--hue", String(hue));
    element.style.setProperty("--strength", strength.toFixed(2));
  };
  return element;
}

// -- the queue, and errors

function queue(waiting) {
  table("queue", waiting, (one) => one.place, (one) => [
    count(one.place),
    one.model || "–",
    span(Math.max(1, Math.round(one.waited))),
    one.mine ? words("status.yours") : "",
  ]);
}

function errors(kinds) {
  table("errors", Object.entries(kinds), (one) => one[0], ([code, n]) => [code, count(n)]);
}

function table(name, items, key, cells) {
  at(`${name}-none`).hidden = items.length > 0;
  at(`${name}-table`).hidden = items.length === 0;
  keyed(at(`${name}-rows`), items, key, (item) => {
    const row = make("tr", {}, cells(item).map(() => make("td")));
    row.update = (now) => cells(now).forEach((text, n) => say(row.children[n], text));
    return row;
  });
}

// -- the stream

const live = at("live");

function connected(yes) {
  live.dataset.state = yes ? "up" : "down";
  say(live, yes ? words("common.live") : words("common.lost"));
}

const handlers = { points: (points) => hour.add(points), now: show };
follow(page.dataset.events, page.dataset.session, handlers, connected);
