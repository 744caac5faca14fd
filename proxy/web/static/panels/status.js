// The status page: server-sent events that update its elements in place.

import { keyed, make, say } from "./dom.js";
import { count, percent, recent, span } from "./form.js";
import { follow } from "./live.js";
import { COUNT, DAYS, HOURS, Histogram, Hour, MEASURE, Plot, SPAN, TIMES } from "./plots.js";
import { words } from "./words.js";

const ABILITIES = ["chat", "native", "json_schema", "infill", "embeddings", "vision", "audio"];
const STORES = ["slot_save", "ram_cache"];
const LOADS = { loading: "busy", failed: "down" };
const FADES = 1800; // seconds until a slot's content is shown at its palest

const DENSE = 64; // slots of a backend, above which a slot is a square without text
const LANES = 32; // slots that have a lane each, as the server sends them
const LANES_AGE = 5000; // milliseconds after which the lanes are loaded again
const CONTENTS = 20; // rows about the chosen slot

const page = document.getElementById("status");
const at = (name) => page.querySelector(`[data-part="${name}"]`);
const spent = page.querySelector('[name="hours"]'); // none without a ledger
const hour = new Hour();
const NUMBERS = { queue: SPAN, first_token: SPAN, speed: MEASURE, prompt_tokens: COUNT };
const PLOTS = { rate: COUNT, first_token: SPAN, speed: MEASURE };
const named = (name) => words(`status.number.${name}`);
const histograms = Object.entries(NUMBERS).map(([name, kind]) => [
  name,
  new Histogram(at("histograms"), named(name), kind, () => spread(name)),
]);
let latest = null; // the state now
let past = null; // what the ledger has of a longer time, if that is chosen
let plots = [];
let drawn = "";

function show(state) {
  const first = !latest;
  latest = state;
  at("workers").hidden = !(state.workers > 1);
  say(at("workers"), words("status.workers", { n: count(state.workers) }));
  if (first && asks()) choose();
  hour.add(state.points);
  draw();
  backends(state);
  table("queue", state.queue, (ticket) => ticket.place, (ticket) => [
    count(ticket.place),
    ticket.model || "–",
    span(Math.max(1, Math.round(ticket.waited))),
    ticket.mine ? words("status.yours") : "",
  ]);
  if (chosen && performance.now() - loaded > LANES_AGE) load();
}

// -- the numbers of the chosen time

/** Draw the numbers. Canvases are the only expensive step: they are drawn once per sample, or when a
 * request has ended. */
function draw() {
  if (!latest) return;
  const { total } = past ?? latest;
  numbers(total);
  table("errors", Object.entries(total.errors), ([code]) => code, ([code, n]) => [code, count(n)]);
  table("evictions", Object.entries(total.evictions), ([reason]) => reason, ([reason, n]) => [why(reason), count(n)]);
  const now = [past?.points.at[0], Math.floor(latest.at / hour.step), total.requests].join(" ");
  if (now === drawn) return;
  drawn = now;
  const { at: times, requests, first_token, speed } = past?.points ?? {};
  const columns = past ? [times, requests, first_token, speed] : hour.columns(latest.at, latest.started);
  plots.forEach((plot, n) => plot.set(columns[0], columns[n + 1]));
  for (const [name, histogram] of histograms) histogram.fill(total[name]?.bars ?? []);
}

/** Make the plots of the chosen time. */
function plotted() {
  const axis = past ? (past.points.step === 86400 ? DAYS : { ...HOURS, bar: past.points.step }) : TIMES;
  at("plots").replaceChildren();
  plots = Object.entries(PLOTS).map(([name, kind]) => {
    const title = past && name === "rate" ? words("status.requests") : named(name);
    const note = (value) =>
      words(past ? "status.past_note" : "status.plot_note", {
        name: title,
        value: value === undefined ? words("status.no_value") : kind.shown(value),
      });
    return new Plot(at("plots"), title, kind, note, axis);
  });
  drawn = "";
}

/** Whether the numbers come from the ledger: those of longer times, and those of several workers. */
const asks = () => spent && (Number(spent.value) > 1 || latest?.workers > 1);

async function choose() {
  const hours = spent?.value;
  let next = null;
  try {
    if (asks()) next = await fetched(page.dataset.past, { hours });
    say(at("told"), "");
  } catch {
    return say(at("told"), words("status.past_failed"));
  }
  if (hours !== spent?.value) return; // another choice came first
  const same = past?.points.step === next?.points.step;
  past = next;
  if (!same || !plots.length) plotted();
  draw();
}

async function fetched(address, values) {
  const answer = await fetch(`${address}?${new URLSearchParams(values)}`);
  if (!answer.ok) throw new Error(answer.statusText);
  return answer.json();
}

const why = (reason) => words(`status.why.${reason}`, {}, reason);

/** A number's percentiles as text, by their names. */
const percentiles = (name, values) =>
  Object.fromEntries(["p10", "p50", "p90", "p99"].map((share) => [share, NUMBERS[name].shown(values[share])]));

function spread(name) {
  const values = (past ?? latest)?.total[name];
  if (!values) return `${named(name)}: ${words("status.no_value")}`;
  return words("status.bars_note", { name: named(name), n: count(values.count), ...percentiles(name, values) });
}

function numbers(last) {
  const sum = (counts) => Object.values(counts).reduce((all, n) => all + n, 0);
  const shown = [
    ["running", count(latest.running), ""],
    ["waiting", count(latest.queue.length), ""],
    ["rate", count(latest.minute), words("status.rate_note")],
    ...Object.keys(NUMBERS).map((name) => {
      if (!last[name]) return [name, "–", ""];
      const values = percentiles(name, last[name]);
      return [name, values.p50, words(name === "speed" ? "status.lower" : "status.upper", values)];
    }),
    [
      "saved",
      count(last.cached),
      last.prompt ? words("status.saved_note", { share: percent(last.cached / last.prompt), prompt: count(last.prompt) }) : "",
    ],
    ["errors", count(sum(last.errors)), words("status.errors_note", { requests: count(last.requests) })],
    ["evictions", count(sum(last.evictions)), words("status.evictions_note")],
  ];
  keyed(at("numbers"), shown, (number) => number[0], ([name]) => {
    const value = make("dd", { className: "number" });
    const note = make("dd", { className: "note" });
    const element = make("div", { className: "card" }, make("dt", {}, named(name)), value, note);
    element.update = ([, text, remark]) => {
      say(value, text);
      say(note, remark);
    };
    return element;
  });
}

// -- backends and their slots

function backends(state) {
  const slots = new Map(state.slots.map((view) => [view.backend, view]));
  const all = state.backends.map((backend) => ({ ...backend, view: slots.get(backend.id) }));
  at("no-backend").hidden = all.length > 0;
  keyed(at("backends"), all, (backend) => backend.id, card);
}

function card(backend) {
  const state = make("span", { className: "state" });
  const error = make("p", { className: "error" });
  const facts = make("dl", { className: "facts" });
  const counted = make("span", { className: "note" });
  const titled = make("h4", {}, words("common.slots"), " ", counted);
  const guessed = make("p", { className: "note" }, words("status.slots_guessed"));
  const tiles = make("ol", { className: "slots", tabIndex: 0, role: "listbox", "aria-label": words("common.slots") });
  chooses(tiles, backend.id);
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
  element.update = (current) => {
    const view = current.view;
    const name = stateOf(current.state, view);
    const idle = name === "up" && current.status !== "loaded" ? current.status : null; // a model on demand
    state.dataset.state = idle ? (LOADS[idle] ?? "off") : name;
    say(state, idle ? words(`status.load.${idle}`, {}, idle) : words(`status.state.${name}`));
    error.hidden = !current.error;
    say(error, current.error ?? "");
    keyed(facts, factsOf(current), ([label]) => label, fact);
    const slots = view?.slots ?? []; // none until it is loaded
    guessed.hidden = !slots.length || (view.slots_known && !view.slots_learned);
    titled.hidden = tiles.hidden = !slots.length;
    say(guessed, words(view?.slots_learned ? "status.slots_learned" : "status.slots_guessed"));
    const kinds = { busy: 0, held: 0, free: 0 };
    for (const slot of slots) kinds[slot.state === "busy" ? "busy" : slot.held ? "held" : "free"] += 1;
    say(counted, words("status.slots_count", { busy: count(kinds.busy), held: count(kinds.held), free: count(kinds.free) }));
    tiles.classList.toggle("dense", slots.length > DENSE);
    keyed(tiles, slots, (slot) => slot.id, slots.length > DENSE ? square : tile);
    chosen ??= slots.length ? { backend: current.id, id: slots[0].id } : null;
    mark(tiles, current.id);
  };
  return element;
}

function stateOf(state, view) {
  if (view?.draining) return "draining";
  if (state !== "up" || !view?.on_trial) return state;
  return view.circuit === "open" ? "paused" : "on_trial";
}

function factsOf({ model, n_ctx, found: caps, view }) {
  const facts = [[words("common.model"), model || "–"]];
  if (view?.tier) facts.push([words("status.tier"), view.tier]);
  const instead = Object.entries(view?.instead ?? {});
  if (instead.length) {
    const parts = instead.map(([reason, n]) => words("status.instead_value", { reason: words(`status.passed.${reason}`, {}, reason), n: count(n) }));
    facts.push([words("status.instead"), parts.join(", ")]);
  }
  if (caps) facts.push([words("status.kind"), caps.provisional ? words("status.load.unloaded") : [caps.dialect, caps.build].filter(Boolean).join(" · ")]);
  if (n_ctx) facts.push([words("status.context"), words("common.tokens", { n: count(n_ctx) })]);
  if (caps) {
    const can = [...ABILITIES, ...STORES].filter((name) => caps[name]).map((name) => words(`status.ability.${name}`));
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
  const element = make("li", { className: "slot", role: "option" }, make("span", { className: "number" }, String(slot.id)));
  element.append(state, holds, age);
  element.update = (current) => {
    const kind = coloured(element, current);
    say(state, stateName(current));
    say(holds, held(current));
    say(age, kind === "empty" ? "" : words("status.since", { span: span(Math.max(1, Math.round(current.since))) }));
    element.title = current.conversation ? words("status.chance", { part: percent(current.chance) }) : "";
  };
  return element;
}

/** A slot of many: a square, whose name says what a tile shows. It is changed only with its slot. */
function square() {
  const element = make("li", { className: "slot", role: "option" });
  let shown = "";
  element.update = (slot) => {
    const now = [slot.state, slot.held, slot.conversation, slot.tokens, Math.floor((10 * slot.since) / FADES)].join(" ");
    if (now === shown) return;
    shown = now;
    coloured(element, slot);
    element.title = [words("status.slot_name", { id: slot.id, state: stateName(slot) }), held(slot)].filter(Boolean).join(" · ");
    element.setAttribute("aria-label", element.title);
  };
  return element;
}

const stateName = (slot) => words(`status.slot.${slot.held && slot.state === "free" ? "held" : slot.state}`);
const held = (slot) =>
  slot.conversation === null ? "" : words("status.holds", { tokens: count(slot.tokens), turns: count(slot.turns) });
const hueOf = (digest) => String(Number.parseInt(digest.slice(0, 6), 16) % 360);

/** Colour a slot: the conversation decides the hue, its age the strength. */
function coloured(element, slot) {
  const mine = slot.conversation !== null;
  const kind = slot.state === "busy" ? "busy" : mine ? "held" : slot.held ? "other" : "empty";
  element.dataset.kind = kind;
  element.style.setProperty("--hue", mine ? hueOf(slot.conversation) : "0");
  element.style.setProperty("--strength", (mine ? 1 - 0.8 * Math.min(slot.since / FADES, 1) : 0).toFixed(2));
  return kind;
}

// -- the chosen slot, and who held it

let chosen = null; // a backend and the id of a slot
let loaded = 0;
let reads = 0;
let later = 0;

/** Let a slot of this list be chosen with the mouse and the keys of a list in rows. */
function chooses(tiles, backend) {
  const choice = (element) => {
    if (!element) return;
    chosen = { backend, id: Number(element.dataset.key) };
    for (const list of page.querySelectorAll(".slots")) mark(list, list === tiles ? backend : null);
    element.scrollIntoView({ block: "nearest" });
    clearTimeout(later);
    later = setTimeout(load, 150);
  };
  tiles.addEventListener("click", (event) => choice(event.target.closest("[role=option]")));
  tiles.addEventListener("keydown", (event) => {
    const all = tiles.children;
    const row = getComputedStyle(tiles).gridTemplateColumns.split(" ").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row, Home: -all.length, End: all.length };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const now = [...all].indexOf(tiles.querySelector('[aria-selected="true"]'));
    const next = Math.max(now, 0) + (now < 0 ? 0 : steps[event.key]);
    choice(all[Math.min(Math.max(next, 0), all.length - 1)]);
  });
}

/** Mark the chosen slot in the list of a backend. */
function mark(tiles, backend) {
  const element = chosen?.backend === backend ? tiles.children[chosen.id] : null;
  const before = tiles.querySelector('[aria-selected="true"]');
  if (before === (element ?? null)) return;
  before?.setAttribute("aria-selected", "false");
  element?.setAttribute("aria-selected", "true");
  if (element) element.id = "chosen-slot";
  if (before) before.removeAttribute("id");
  if (element) tiles.setAttribute("aria-activedescendant", element.id);
  else tiles.removeAttribute("aria-activedescendant");
}

async function load() {
  const number = ++reads;
  loaded = performance.now();
  const { backend, id } = chosen;
  const first = id - (id % LANES);
  try {
    const answer = await fetched(page.dataset.slots, { backend, first });
    if (number === reads) lanes(answer, backend, first, id);
  } catch {
    // The next look follows; the state of the page says that the connection is lost.
  }
}

function lanes({ begin, end, tenures }, backend, first, id) {
  const all = latest.slots.find((view) => view.backend === backend)?.slots ?? [];
  const slots = all.slice(first, first + LANES).map((slot) => slot.id);
  const values = { backend, first, last: slots.at(-1) ?? first };
  const part = (time) => (100 * (Math.max(time, begin) - begin)) / (end - begin);
  say(at("lanes-title"), words("status.lanes", values));
  at("lanes").setAttribute("aria-label", words("status.lanes_note", values));
  at("lanes").replaceChildren(
    ...slots.map((slot) => {
      const lane = make("span", { className: "lane" });
      for (const stay of tenures.filter((tenure) => tenure.slot === slot)) {
        const [from, to] = [part(stay.since), part(stay.ended || end)];
        const bar = make("span", { title: holder(stay) });
        const look = { left: `${from}%`, width: `${to - from}%`, "--used": `${(100 * (part(stay.until) - from)) / (to - from || 1)}%` };
        if (stay.conversation) look["--hue"] = hueOf(stay.conversation);
        else bar.className = "unknown";
        for (const [name, value] of Object.entries(look)) bar.style.setProperty(name, value);
        lane.append(bar);
      }
      return make("span", { className: slot === id ? "chosen" : "" }, make("span", { className: "note" }, String(slot)), lane);
    }),
  );
  say(at("begin"), recent(begin));
  say(at("end"), recent(end));
  say(at("held-title"), words("status.held_title", { id, backend }));
  const contents = tenures.filter((tenure) => tenure.slot === id).toSorted((a, b) => b.since - a.since);
  table("held", contents.slice(0, CONTENTS), (tenure) => tenure.since, (tenure) => [
    holder(tenure),
    recent(tenure.since),
    tenure.ended ? recent(tenure.ended) : words("status.until_now"),
    count(tenure.requests),
    tenure.key === null ? "–" : words("common.tokens", { n: count(tenure.prompt) }),
    tenure.why ? why(tenure.why) : "",
  ]);
}

function holder({ key, conversation }) {
  if (key === null) return words("status.another_key");
  const talk = conversation ? words("status.conversation", { id: conversation.slice(0, 4) }) : words("status.unknown_conversation");
  return key ? `${key} · ${talk}` : talk;
}

// -- tables

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

spent?.addEventListener("change", choose);
spent?.form.addEventListener("submit", (event) => event.preventDefault());
setInterval(() => asks() && choose(), 10000);
choose();
const handlers = { points: (points) => hour.add(points), now: show };
follow(page.dataset.events, page.dataset.session, handlers, connected);
