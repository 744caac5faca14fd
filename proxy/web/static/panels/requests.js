// The page of requests: a table that is fetched again while it is looked at, and one request opened.

import { Calls } from "./calls.js";
import { captureView } from "./captures.js";
import { keyed, make, say } from "./dom.js";
import { count, measure, recent, span } from "./form.js";
import { words } from "./words.js";

const PERIOD = 2000; // milliseconds between two looks
const MOST = 200; // requests that ended, in an answer
const SLOW_PART = 0.002; // seconds of a step that are shown

const page = document.getElementById("requests");
const at = (name) => page.querySelector(`[data-part="${name}"]`);
const form = page.querySelector("form");
const admin = page.dataset.admin === "true";
const calls = new Calls(page.dataset.api, page.dataset.csrf);
const dialog = at("opened");
const offered = { key: new Map(), model: new Map(), api: new Map(), outcome: new Map() };
let ended = new Map(); // by id
let most = MOST; // rows
let reads = 0;
let pending = false; // all that is known was asked for, and has not come yet
let opened = ""; // the id of the request in the dialog

function query(stored, until = 0) {
  const data = new FormData(form);
  const chosen = [...data].filter(([name, value]) => value && name !== "hours");
  const since = Math.floor(Date.now() / 1000 - 3600 * data.get("hours"));
  const scope = admin ? "all" : "own";
  const end = until ? [["end_time", until]] : [];
  return `?${new URLSearchParams([...chosen, ["start_time", since], ...end, ["limit", MOST], ["scope", scope], ["stored", stored]])}`;
}

/** Fetch the requests: all that are known if `whole`, otherwise what is new. */
async function load(whole) {
  const mine = ++reads;
  pending ||= whole;
  try {
    const answer = await calls.get(query(whole));
    if (mine !== reads) return; // another choice came first
    if (whole) {
      ended = new Map();
      most = MOST;
      at("older").hidden = answer.data.length < MOST;
    }
    for (const request of answer.data) ended.set(request.id, request);
    show(answer.running);
    at("live").dataset.state = "up";
    say(at("live"), words("common.live"));
  } catch (error) {
    if (error.status === undefined) throw error;
    at("live").dataset.state = "down";
    say(at("live"), error.message || words("common.lost"));
  } finally {
    if (mine === reads) pending = false;
  }
}

/** Fetch the requests that ended before those that are listed. */
async function loadOlder() {
  const until = Math.ceil(Math.min(...[...ended.values()].map((request) => request.started + request.seconds))) + 1;
  at("older").disabled = true;
  try {
    const { data } = await calls.get(query(true, until));
    const before = ended.size;
    for (const request of data) ended.set(request.id, request);
    most = Math.max(most, ended.size) + (ended.size > before ? MOST : 0);
    at("older").hidden = data.length < MOST || ended.size === before;
    await load(false);
  } catch (error) {
    if (error.status === undefined) throw error;
    say(at("told"), error.message || words("common.no_connection"));
  }
  at("older").disabled = false;
}

function show(running) {
  const past = [...ended.values()].toSorted((a, b) => b.started - a.started).slice(0, most);
  ended = new Map(past.map((request) => [request.id, request]));
  const rows = [...running.toReversed(), ...past];
  keyed(at("rows"), rows, (request) => `${request.id} ${request.state === "ended"}`, row);
  at("table").hidden = !rows.length;
  at("nothing").hidden = rows.length > 0;
  for (const request of rows) for (const name in offered) offer(name, request);
}

/** Add a value that was met to a choice. */
function offer(name, request) {
  const select = form.elements[name];
  if (!select || !request[name] || offered[name].has(request[name])) return;
  offered[name].set(request[name], true);
  const text = name === "key" ? request.key_name || request.key : name === "outcome" ? outcome(request) : request[name];
  select.append(make("option", { value: request[name] }, text));
}

const OUTCOMES = ["ok", "cancelled"];
const outcome = (request) => (OUTCOMES.includes(request.outcome) ? words(`requests.outcomes.${request.outcome}`) : request.outcome);
const state = (request) => (request.state === "ended" ? outcome(request) : words(`requests.states.${request.state}`));
const when = (request) => (request.state === "ended" ? recent(request.started) : span(request.seconds));
const orDash = (value, form_of) => (value ? form_of(value) : "–");

function mark(request) {
  if (request.state === "queued" || request.state === "loading") return "busy";
  if (request.state !== "ended" || request.outcome === "ok") return "up";
  return request.outcome === "cancelled" ? "off" : "down";
}

function row(first) {
  const open = make("button", { type: "button", className: "quiet" });
  open.addEventListener("click", () => openRequest(first.id));
  const cells = Array.from({ length: admin ? 12 : 11 }, () => make("td"));
  const badge = make("span", { className: "state" });
  cells[0].append(badge);
  const end = cancelButton(first);
  const element = make("tr", {}, make("th", { scope: "row" }, open), cells, make("td", { className: "action" }, end));
  let shown;
  element.update = (request) => {
    if (request === shown) return; // it ended long ago
    shown = request;
    say(open, when(request));
    open.setAttribute("aria-label", words("requests.open", { time: when(request), model: request.model || "–" }));
    badge.dataset.state = mark(request);
    say(badge, state(request));
    const texts = [
      request.model || "–",
      ...(admin ? [request.key_name || "–"] : []),
      request.api,
      orDash(request.place, count),
      request.slot < 0 ? "–" : String(request.slot),
      orDash(request.prompt_tokens, () => count(request.cached_tokens)),
      orDash(request.prompt_tokens, () => count(request.evaluated_tokens)),
      orDash(request.first_token_seconds, span),
      orDash(request.tokens_per_second, measure),
      span(request.seconds),
      request.client || "–",
    ];
    texts.forEach((text, place) => say(cells[place + 1], text));
  };
  return element;
}

function cancelButton(request) {
  if (request.state === "ended") return null;
  const button = make("button", { type: "button", className: "quiet danger", "aria-label": words("requests.cancelling", { model: request.model || "–" }) }, words("common.cancel"));
  button.addEventListener("click", () => cancel(request.id, button, at("told")));
  return button;
}

async function cancel(id, button, note) {
  button.disabled = true;
  say(note, "");
  try {
    await calls.post(`/${encodeURIComponent(id)}/cancel`);
  } catch (error) {
    if (error.status === undefined) throw error;
    say(note, error.message || words("common.no_connection"));
  }
  button.disabled = false;
  await load(pending);
  if (dialog.open) await openRequest(id, true);
}

async function openRequest(id, again = false) {
  opened = id;
  say(at("opened-told"), "");
  try {
    const request = await calls.get(`/${encodeURIComponent(id)}`);
    if (opened === id) detail(request);
  } catch (error) {
    if (error.status === undefined) throw error;
    say(at("told"), error.message || words("common.no_connection"));
    return;
  }
  if (!dialog.open && !again) dialog.showModal();
}

function why(request) {
  const reason = request.decision?.reason;
  if (request.state === "queued") return words(request.place ? "requests.waits" : "requests.begins", { place: request.place });
  if (!reason) return words("requests.no_reason");
  const values = {
    ...reason.values,
    unit: words(`requests.units.${reason.values.unit}`),
    time: span(reason.values.seconds ?? 0),
  };
  return words(`requests.why.${reason.cause}`, values);
}

function detail(request) {
  say(at("id"), request.id);
  say(at("why"), why(request));
  at("cancel").hidden = request.state === "ended";
  const difference = request.decision?.reason.difference;
  at("difference").hidden = !difference;
  say(at("before"), `…${difference?.before ?? ""}`);
  say(at("after"), `${difference?.after ?? ""}…`);
  const decision = request.decision;
  const facts = [
    ["state", state(request)],
    ["model", request.model || "–"],
    ["backend", request.backend ? words("requests.on_slot", { backend: request.backend, slot: request.slot < 0 ? "–" : request.slot }) : "–"],
    ...(request.prompt_tokens ? [["prompt", words("requests.prompt_split", { cached: count(request.cached_tokens), evaluated: count(request.evaluated_tokens) })]] : []),
    ...(decision ? [["expected", words("common.tokens", { n: count(decision.expected_tokens) })]] : []),
    ...(decision?.replaced_tokens ? [["replaced", words(decision.saved ? "requests.replaced_saved" : "requests.replaced_lost", { n: count(decision.replaced_tokens) })]] : []),
    ...(decision?.restored ? [["restored", words("requests.yes")]] : []),
    ...(decision?.passed ?? []).map(({ backend, why: cause }) => ["passed", `${backend}: ${words(`requests.passed.${cause}`, {}, cause)}`]),
    ["answer", words("common.tokens", { n: count(request.completion_tokens) })],
    ["client", request.client || "–"],
    ...(admin ? [["key", request.key_name || "–"]] : []),
  ];
  keyed(at("facts"), facts, ([name, text]) => `${name} ${text}`, ([name, text]) => {
    const element = make("div", {}, make("dt", {}, words(`requests.facts.${name}`)), make("dd", {}, text));
    element.update = () => {}; // another text is another element
    return element;
  });
  if (at("capture").dataset.of !== request.id) {
    at("capture").dataset.of = request.id;
    at("capture").open = false;
    at("captured").replaceChildren();
  }
  at("capture").hidden = !request.captured;
  const slow = (request.timeline ?? []).filter(({ seconds }) => seconds >= SLOW_PART);
  const steps = slow.map((step, place) => ({ ...step, place, whole: request.seconds }));
  at("timeline").hidden = !steps.length;
  keyed(at("steps"), steps, ({ step, place }) => `${place} ${step}`, () => {
    const name = make("span");
    const bar = make("meter", { min: 0 });
    const text = make("span", { className: "number" });
    const element = make("li", {}, name, bar, text);
    element.update = ({ step, seconds, whole }) => {
      say(name, words(`requests.steps.${step}`));
      bar.max = Math.max(whole, seconds, 0.001);
      bar.value = seconds;
      bar.setAttribute("aria-label", words(`requests.steps.${step}`));
      say(text, span(seconds));
    };
    return element;
  });
  const holders = request.slot_before ?? [];
  at("slot").hidden = !holders.length;
  keyed(at("holders"), holders, ({ began }) => began, holder);
}

/** Show a request that had the slot before. */
function holder(first) {
  const name = make("button", { type: "button", className: "quiet" });
  name.addEventListener("click", () => openRequest(first.id));
  const text = make("span");
  const element = make("li", {}, first.id ? name : null, text);
  element.update = ({ id, key_name: key, tokens, began, then }) => {
    say(name, recent(began));
    const held = id
      ? words("requests.held", { who: key || words("requests.a_request"), tokens: words("common.tokens", { n: count(tokens) }) })
      : words("requests.held_by_other", { time: recent(began) });
    say(text, `${held} ${words(`requests.then.${then}`)}`);
  };
  return element;
}

/** Fetch what was captured of the opened request: only now, since the audit tells who read it. */
async function showCapture() {
  const { of: id } = at("capture").dataset;
  const captured = at("captured");
  if (!at("capture").open || captured.childElementCount) return;
  captured.replaceChildren(make("p", { role: "status" }, words("captures.loading")));
  try {
    const capture = await calls.get(`/${encodeURIComponent(id)}/capture`);
    if (opened !== id) return;
    const gone = () => captured.replaceChildren(make("p", { role: "status" }, words("captures.removed")));
    captured.replaceChildren(...captureView(capture, { calls, models: JSON.parse(page.dataset.models) }, gone));
  } catch (error) {
    if (error.status === undefined) throw error;
    captured.replaceChildren(make("p", { className: "error", role: "alert" }, error.message || words("common.no_connection")));
  }
}

at("capture").addEventListener("toggle", showCapture);
form.addEventListener("change", () => load(true));
form.addEventListener("submit", (event) => event.preventDefault());
at("older").addEventListener("click", loadOlder);
at("close").addEventListener("click", () => dialog.close());
at("cancel").addEventListener("click", () => cancel(opened, at("cancel"), at("opened-told")));
setInterval(() => {
  if (document.hidden || pending) return;
  load(false);
  if (dialog.open && !at("cancel").hidden) openRequest(opened, true); // it runs
}, PERIOD);
load(true);
