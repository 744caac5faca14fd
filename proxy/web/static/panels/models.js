// The models page: which models are loaded, what they hold of the memory, and buttons for admins.
// Points in time come from the server, and a clock counts the seconds to them.

import { Calls } from "./calls.js";
import { keyed, make, say } from "./dom.js";
import { binary, count, recent, span, whole_number } from "./form.js";
import { downloads } from "./model_downloads.js";
import { follow } from "./live.js";
import { memory } from "./memory_bar.js";
import { showLog } from "./model_log.js";
import { words } from "./words.js";

const POLL = 3000; // milliseconds between requests while there is no stream
const DOTS = { ready: "up", busy: "up", failed: "down", down: "down", stopped: "off" };
const LOADED = new Set(["ready", "busy", "stopping"]);
const PATIENCE = 3000; // milliseconds for which an action is shown before its effect

const page = document.getElementById("models");
const at = (name) => page.querySelector(`[data-part="${name}"]`);
const calls = new Calls(page.dataset.api, page.dataset.csrf);
const admin = page.dataset.admin === "true";

const showDownload = at("pull") ? downloads(at("pull"), calls) : () => {};

let state = null;
const begun = new Map(); // what was pressed last for a model, until its state changes
let ahead = 0; // seconds by which the server's clock is ahead of ours

const now = () => Date.now() / 1000 + ahead;
const whole = (seconds) => span(Math.max(1, Math.round(seconds)));

function show(next) {
  for (const model of next.models) if (begun.get(model.name)?.before !== model.state) begun.delete(model.name);
  state = next;
  ahead = next.at - Date.now() / 1000;
  draw();
}

function draw() {
  const { models, room, served, unread } = state;
  at("served").hidden = served.length + unread.length === 0;
  keyed(at("served-models"), served, (model) => model.name, servedCard);
  keyed(at("unread"), unread, (server) => server.name, unreadCard);
  showDownload(state.download);
  at("none").hidden = models.length > 0;
  at("some").hidden = models.length === 0;
  at("legend").hidden = room.bars.every((bar) => bar.limit === null);
  at("loaded").hidden = !room.most_models;
  say(at("loaded"), words("models.room", { n: count(room.models), most: count(room.most_models) }));
  keyed(at("memory"), room.bars, (bar) => bar.device, memory);
  keyed(at("models"), models, (model) => model.name, card);
}

// -- a model

function card({ name }) {
  const title = make("h3", {});
  const id = make("code", { className: "note" });
  const pinned = make("span", { className: "badge" });
  const file = make("p", { className: "note" });
  const status = make("p", { className: "state" });
  const progress = make("progress", { max: 1, "aria-label": words("models.progress", { name }) });
  const description = make("p", { className: "note" });
  const failure = failed();
  const facts = make("dl", { className: "facts" });
  const lines = make("dl", { className: "facts", lang: "en" });
  const layout = make("details", {}, make("summary", {}, words("models.template")), lines);
  const actions = admin ? buttons(name) : null;
  const deletes = deleteButton(name);
  const all = make("div", { className: "actions" }, chat(name), actions, deletes);
  const element = make(
    "article",
    { className: "card model" },
    make("header", {}, make("div", {}, make("div", { className: "what" }, title, id, pinned), description, file), all),
    make("div", { className: "doing" }, status, progress),
    failure,
    facts,
    layout,
  );
  element.update = (model) => {
    say(title, model.title || model.name);
    say(id, model.title ? model.name : "");
    say(pinned, words(model.pinned_by_file ? "models.persistent" : "models.pinned"));
    pinned.title = words(model.pinned_by_file ? "models.persistent_note" : "models.pinned_note");
    say(file, inFile(model));
    file.hidden = !file.textContent;
    pinned.classList.toggle("idle", !model.pinned);
    say(description, model.description);
    description.hidden = !model.description;
    const action = begun.get(name)?.action;
    status.dataset.state = action ? "busy" : (DOTS[model.state] ?? "busy");
    say(status, action ? words(`models.asked.${action}`) : doing(model));
    advance(progress, model, action === "load");
    failure.update(model.failure);
    keyed(facts, factsOf(model), ([label]) => label, fact);
    const learned = template(name); // empty while it loads again
    if (learned.length) keyed(lines, learned, ([label]) => label, fact);
    layout.hidden = !lines.children.length;
    actions?.update(model);
    deletes.hidden = !state.deletable.includes(name);
  };
  return element;
}

/** Deletes a model of --models-dir, for those who may. */
function deleteButton(name) {
  const note = make("span", { className: "error", role: "status" });
  async function remove() {
    if (!confirm(words("models.delete_ask", { name }))) return;
    try {
      await calls.remove(`/files/${encodeURIComponent(name)}`);
    } catch (error) {
      if (error.status === undefined) throw error;
      say(note, error.message || words("models.failed_request"));
    }
  }
  const label = `${words("models.delete")} ${name}`;
  return make("span", {}, make("button", { type: "button", className: "quiet", "aria-label": label, onclick: remove }, words("models.delete")), note);
}

/** A model of a server that runs already. */
function servedCard({ name }) {
  const file = make("p", { className: "note" });
  const status = make("p", { className: "state" });
  const head = make("div", {}, make("div", { className: "what" }, make("h3", {}, name), status), file);
  const element = make("article", { className: "card model" }, make("header", {}, head, make("div", { className: "actions" }, chat(name))));
  element.update = (model) => {
    status.dataset.state = DOTS[model.state] ?? "busy";
    say(status, words(`chat.states.${model.state}`));
    say(file, model.context ? words("models.context", { n: whole_number(model.context) }) : "");
  };
  return element;
}

/** A server whose models are unknown, as it has not answered yet. */
function unreadCard({ name }) {
  const status = make("p", { className: "state" });
  const why = make("p", { className: "note", lang: "en" });
  const head = make("div", {}, make("div", { className: "what" }, make("h3", {}, name), status), make("p", {}, words("models.unread")), why);
  const element = make("article", { className: "card model" }, make("header", {}, head));
  element.update = (server) => {
    status.dataset.state = server.why ? "down" : "busy";
    say(status, words(`chat.states.${server.why ? "down" : "unknown"}`));
    say(why, server.why);
  };
  return element;
}

/** A link to the chat page with this model chosen. */
function chat(name) {
  const href = `${document.body.dataset.home}?${new URLSearchParams({ model: name })}`;
  return make("a", { className: "quiet", href }, words("models.chat"), make("span", { className: "unseen" }, ` ${name}`));
}

function doing(model) {
  const left = model.ready_at === null ? null : model.ready_at - now();
  switch (model.state) {
    case "waiting":
      return left === null
        ? words("models.waiting", { place: count(model.place) })
        : words("models.waiting_about", { place: count(model.place), left: whole(left) });
    case "loading":
      if (left === null) return words("models.loading_first", { past: whole(now() - model.began_at) });
      return left > 0 ? words("models.loading", { left: whole(left) }) : words("models.loading_late", { over: whole(-left) });
    case "busy":
      return model.slots
        ? words("models.busy_slots", { n: count(model.busy), slots: count(model.slots) })
        : words("models.busy_requests", { n: count(model.busy) });
    case "stopping":
      return model.busy
        ? words("models.stopping_after", { n: count(model.busy) })
        : words("models.state.stopping");
    default:
      return words(`models.state.${model.state}`);
  }
}

/** Show the part of the expected time that has passed; before the first load that is unknown. */
function advance(progress, model, starts) {
  const loads = model.state === "loading" || starts;
  progress.classList.toggle("idle", !loads);
  if (!loads) progress.value = 0;
  else if (starts || model.ready_at === null) progress.removeAttribute("value");
  else progress.value = Math.min(1, (now() - model.began_at) / Math.max(0.1, model.ready_at - model.began_at));
}

/** What its file says, and the context: that of its slots, once it was loaded. */
function inFile({ file, context }) {
  return [
    file?.parameters ? words("models.parameters", { n: file.parameters }) : "",
    file?.quantization,
    file ? binary(file.size) : "",
    context ? words("models.context", { n: whole_number(context) }) : file?.context ? words("models.made_for", { n: whole_number(file.context) }) : "",
  ]
    .filter(Boolean)
    .join(" · ");
}

/** What is known of it now. Values that are unknown are left out. */
function factsOf(model) {
  const cards = model.cards.reduce((sum, bytes) => sum + bytes, 0);
  const sizes = [model.memory || !cards ? binary(model.memory) : null, cards ? words("models.on_cards", { size: binary(cards) }) : null];
  const took = model.load_seconds ? words("models.took", { time: span(model.load_seconds) }) : "";
  return [
    [words("models.memory"), model.memory || cards ? sizes.filter(Boolean).join(" + ") : "", words(`models.source.${model.source}`)],
    [words("common.slots"), model.slots ? count(model.slots) : "", ""],
    [words("models.last_load"), model.loaded_at ? recent(model.loaded_at) : "", took],
    [words("models.expiry"), ...expiry(model)],
    [
      words("models.kept"),
      model.kept.tokens ? words("common.tokens", { n: count(model.kept.tokens) }) : "",
      model.kept.size ? binary(model.kept.size) : "",
    ],
  ].filter(([, value]) => value);
}

/** What is known of its template, in English, as the log and `slotproxy doctor` say it. */
function template(name) {
  return (state.profiles[name] ?? []).map(([label, text]) => [label, text, ""]);
}

function expiry({ expires_at, ttl }) {
  if (expires_at !== null) return [words("models.expires", { left: whole(expires_at - now()) }), words("models.if_idle")];
  return ttl === null ? ["", ""] : [words("models.after", { ttl: span(ttl) }), words("models.idle")];
}

function fact([name]) {
  const value = make("span", {});
  const note = make("span", { className: "note" });
  const row = make("div", {}, make("dt", {}, name), make("dd", {}, value, note));
  row.update = ([, text, remark]) => {
    say(value, text);
    say(note, remark);
  };
  return row;
}

function failed() {
  const summary = make("p", { className: "error" });
  const remedy = make("p", {});
  const lines = make("pre", { tabIndex: 0, "aria-label": words("models.lines") });
  const fold = make("details", {}, make("summary", {}, words("models.lines")), lines);
  const element = make("div", { className: "failure" }, summary, remedy, fold);
  element.update = (failure) => {
    element.hidden = !failure;
    if (!failure) return;
    say(summary, failure.summary);
    const wait = failure.retry_at === null ? 0 : failure.retry_at - now();
    say(remedy, [words(`models.remedy.${failure.cause}`), wait > 0 ? words("models.retry", { left: whole(wait) }) : ""].join(" ").trim());
    fold.hidden = !failure.lines;
    say(lines, failure.lines);
  };
  return element;
}

// -- what admins can do

function buttons(name) {
  const note = make("p", { className: "error", role: "status" });
  const load = button(note, (model) => (LOADED.has(model.state) ? "unload" : "load"), name);
  const pin = button(note, (model) => (model.pinned ? "unpin" : "pin"), name);
  const log = make(
    "button",
    {
      type: "button",
      className: "quiet",
      "aria-label": `${words("models.log")} ${name}`,
      onclick: () =>
        showLog(at("log"), `${page.dataset.api}/logs/${encodeURIComponent(name)}`, name),
    },
    words("models.log"),
  );
  const element = make("div", { className: "actions" }, load, pin, log, note);
  element.setAttribute("role", "group");
  element.ariaLabel = name;
  element.update = (model) => {
    const wait = model.failure?.retry_at ? model.failure.retry_at - now() : 0;
    load.update(model, begun.has(name) || ["waiting", "loading", "stopping"].includes(model.state) || wait > 0);
    pin.update(model, false);
  };
  return element;
}

/** A button for the action that `wanted` chooses. It stays focusable while it is of no use. */
function button(note, wanted, name) {
  let action = "";
  const element = make("button", { type: "button", className: "quiet wide" });
  element.addEventListener("click", async () => {
    if (element.getAttribute("aria-disabled") === "true") return;
    say(note, "");
    begin(name, action);
    try {
      await calls.post(`/${action}`, { model: name });
    } catch (error) {
      if (error.status === undefined) throw error;
      begun.delete(name);
      say(note, error.message || (error.status ? words("models.failed_request") : words("models.no_connection")));
    }
    draw();
  });
  element.update = (model, useless) => {
    action = wanted(model);
    say(element, words(`models.action.${action}`));
    element.setAttribute("aria-label", `${words(`models.action.${action}`)} ${name}`);
    element.setAttribute("aria-disabled", String(useless));
  };
  return element;
}

/** Show at once that an action was pressed. */
function begin(name, action) {
  const before = state.models.find((model) => model.name === name)?.state;
  const own = { action, before };
  if (action === "load" || action === "unload") begun.set(name, own);
  draw();
  setTimeout(() => {
    if (begun.get(name) !== own) return;
    begun.delete(name);
    draw();
  }, PATIENCE);
}

// -- the stream, and polls while there is none

const live = at("live");
let poll = 0;

function connected(yes) {
  if (yes) {
    clearInterval(poll);
    poll = 0;
    tell("up", words("common.live"));
  } else if (!poll) {
    tell("down", words("common.lost"));
    poll = setInterval(ask, POLL);
  }
}

async function ask() {
  try {
    const answer = await calls.get("");
    if (!poll) return;
    show(answer);
    tell("busy", words("models.polling"));
  } catch {
    if (poll) tell("down", words("common.lost"));
  }
}

function tell(dot, text) {
  live.dataset.state = dot;
  say(live, text);
}

follow(page.dataset.events, page.dataset.session, { now: show }, connected);
setInterval(() => state && draw(), 1000);
