// The chat page: the list of conversations, and the open branch of one of them.

import { Calls, Refused } from "../panels/calls.js";
import { make, say } from "../panels/dom.js";
import { archive } from "./archive.js";
import { Compare, column, compare, compared } from "./compare.js";
import { drafts } from "./drafts.js";
import { explain } from "./faults.js";
import { Files } from "./files.js";
import { frame } from "./frame.js";
import { Images } from "./images.js";
import { microphone } from "./microphone.js";
import { Models } from "./models.js";
import { Presets } from "./presets.js";
import { Reading } from "./reading.js";
import { retype } from "./retype.js";
import { kinds, options } from "./settings.js";
import { share } from "./share.js";
import { shortcuts } from "./shortcuts.js";
import { Talks } from "./talks.js";
import { awaitTitle, titleSetting } from "./titles.js";
import { Warming } from "./warming.js";
import { words } from "../panels/words.js";

const page = document.getElementById("chat");
const PAGE = 30; // messages rendered at once

const at = (name) => page.querySelector(`[data-part="${name}"]`);
const calls = new Calls(page.dataset.api, page.dataset.csrf);
const form = at("ask");
const list = at("messages");

let talk = null;
let chosen = 0; // how often a conversation was chosen; answers to earlier choices are ignored
let shown = 0; // how often the open conversation changed
let messages = new Map();
let leaf = null; // the last message of the open branch
const written = new Map(); // answers that are being written, by id: {message, source}, their connection
let Message; // once `drawing` is over

/** Fetch what draws messages: an empty chat does without. */
const drawing = async () => {
  try {
    ({ Message } = await import("./message.js"));
  } catch {
    throw new Refused(0, "", ""); // there is no connection
  }
};
const prepare = () => drawing().catch(() => {}); // who needs it tries again
if (location.hash) prepare();

// -- errors: shown until the user's next action, whatever the page requests by itself

const tell = (text) => say(at("told"), text);
for (const name of ["change", "click", "drop", "paste", "submit"]) page.addEventListener(name, () => tell(""), true);

function lost(yes) {
  if (yes) tell(words("common.no_connection"));
  else if (at("told").textContent === words("common.no_connection")) tell("");
}

async function attempt(work) {
  try {
    const done = await work();
    lost(false);
    return done;
  } catch (error) {
    if (error.status === undefined) throw error;
    if (error.status) tell(explain(error.code, error.message));
    else lost(true);
    return undefined;
  }
}

// -- conversations

const talks = new Talks(at, calls, attempt, Number(page.dataset.talks), () => talk, (next) => choose(next), (changed) => {
  if (talk?.id === changed.id) talk = changed;
  title();
});

async function loadTalks() {
  await talks.load();
  talk &&= talks.find(talk.id) ?? talk;
  title();
}

/** Open a conversation, with its settings from the list, which is loaded anew unless it was just
 * `listed`. The old one stays visible until the messages are loaded; `typed` null leaves the input
 * unchanged. */
async function choose(next, typed = drafts.get(next?.id ?? ""), listed = false) {
  const mine = ++chosen;
  // A new conversation is there at once: the user may type already.
  const [read] = next ? await Promise.all([askMessages(next), listed || loadTalks(), attempt(drawing)]) : [[]];
  if (!read || (next && !Message) || mine !== chosen) return;
  talk = next && (talks.find(next.id) ?? next);
  shown += 1;
  history.replaceState(null, "", next ? `#${next.id}` : location.pathname);
  if (typed !== null) form.elements.text.value = typed;
  keepDraft();
  take(read, talk?.settings.leaf);
  show();
  useModel();
  talks.show();
  await Promise.all([files?.show(talk), next || listed || loadTalks()]);
}

const askMessages = ({ id }) => attempt(() => calls.get(`/conversations/${id}/messages`));

function take(read, wanted) {
  messages = new Map(read.map((message) => [message.id, message]));
  leaf = messages.has(wanted) ? newest(wanted) : (read.at(-1)?.id ?? null);
}

// The model that a link of another page chooses, for the first conversation.
let linked = at("model").querySelector("[selected]")?.value;

/** Choose the model of the conversation; a new one has the model that the user chose last. */
function useModel() {
  if (talk) models.choose(talk.settings.model || branch().findLast((message) => message.extra.model)?.extra.model);
  else models.choose(linked || (models.get(presets.model) ? presets.model : models.first()));
  linked = "";
  presets.load();
  tellGone();
}

/** Tell the user if the chosen model is gone. */
function tellGone() {
  const { gone, server } = models;
  if (gone) tell(words(server ? "chat.model_away" : "chat.model_gone", { name: gone, server }));
  return Boolean(gone);
}

/** Store what the conversation is opened with: `{model}` or `{leaf}`. */
async function keepPlace(place) {
  if (!talk) return;
  Object.assign(talk.settings, place);
  await calls.put(`/conversations/${talk.id}`, place).catch(() => {}); // the next question stores it, too
}

/** Return the open conversation; create one if there is none. */
async function begun() {
  await opened;
  if (talk) return talk;
  const here = shown;
  const made = await calls.post("/conversations");
  if (here !== shown) return made;
  drafts.keep("", "");
  talk ??= made; // keep the one created first
  history.replaceState(null, "", `#${talk.id}`);
  keepDraft();
  return talk;
}

const keepDraft = () => drafts.keep(location.hash.slice(1), form.elements.text.value);

const children = (parent) => [...messages.values()].filter((message) => message.parent_id === parent);

/** Return the end of the branch that continues from a message through its newest replies. */
function newest(id) {
  for (let next; (next = children(id).at(-1)); ) id = next.id;
  return id;
}

function branch() {
  const path = [];
  for (let message = messages.get(leaf); message; message = messages.get(message.parent_id)) path.unshift(message);
  return path;
}

/** The ids of the messages that a message answers, the last one first. */
function above({ parent_id }) {
  const ids = [];
  for (let id = parent_id; id; id = messages.get(id)?.parent_id) ids.push(id);
  return ids;
}

// -- messages

/** Delete a question with its answers, or an answer with what follows it. */
async function remove({ id, role, parent_id }) {
  const after = [...messages.values()].filter((message) => message.id !== id && above(message).includes(id)).length;
  const [key, n] = role === "user" ? ["talks.delete_question", 0] : after ? ["talks.delete_after", after] : ["talks.delete_answer", 0];
  if (!confirm(words(key, { n }))) return;
  const here = shown;
  const done = await attempt(async () => (await calls.remove(`/messages/${id}`), true));
  const read = done && (await askMessages(talk));
  if (!read || here !== shown) return;
  const wanted = [leaf, ...above(messages.get(leaf) ?? {}), parent_id].find((candidate) => read.some(({ id: left }) => left === candidate));
  take(read, wanted);
  show();
}

const acts = {
  resume,
  remove,
  lonely: ({ id }) => !children(id).length,
  answer: ({ id }) => ask(() => ({ again: id })),
  again: (message) => ask(() => ({ again: message.parent_id })),
  edit: (message, text) => ask(() => ({ text, parent_id: message.parent_id, images_of: message.id })),
  image: (message, n) => `${page.dataset.api}/messages/${message.id}/images/${n}`,
  hurry: (message) => attempt(() => calls.post(`/answers/${message.id}/hurry`)),
  turn: (id, from) => {
    const { top } = from.getBoundingClientRect();
    leaf = newest(id);
    keepPlace({ leaf });
    show();
    const to = document.getElementById(id);
    if (to) reading.hold(to, top);
  },
  read: (element) => reading.at(element),
  model: (name) => models.get(name),
  look: () => models.look(),
};

function title() {
  if (!at("title").querySelector("input")) say(at("title"), talk?.title || (talk ? words("chat.untitled") : words("common.chat")));
}

function show() {
  for (const id of written.keys()) unfollow(id);
  title();
  at("talk-menu").hidden = !talk;
  if (talk) {
    for (const as of ["md", "json"]) {
      at(`export-${as}`).href = `${page.dataset.api}/conversations/${talk.id}/export?as=${as}`;
    }
  }
  path = branch();
  siblings = new Map();
  for (const { id, parent_id } of messages.values()) {
    siblings.set(parent_id, [...(siblings.get(parent_id) ?? []), id]);
  }
  const made = laid(path.splice(-PAGE));
  const unfolded = new Set([...list.querySelectorAll("details[open]")].map(named));
  const pair = twins();
  if (pair.length) {
    const both = pair.map(({ id }) => new Message(messages.get(id), [id], acts));
    made.splice(-1, 1, ...both);
    const columns = both.map((message, n) => column(message.element, pair[n], keep));
    list.replaceChildren(top, ...made.slice(0, -2).map((message) => message.element), make("div", { className: "pair" }, columns));
  } else list.replaceChildren(top, ...made.map((message) => message.element));
  for (const details of list.querySelectorAll("details")) details.open = unfolded.has(named(details));
  at("welcome").hidden = made.length > 0;
  for (const message of made.slice(-2)) {
    const { id, status } = message.message;
    if (status !== "growing") continue;
    written.set(id, { message, source: message.follow(`${page.dataset.api}/answers/${id}/events`, () => over(id), lost) });
  }
  busy(written.size > 0);
  reading.end();
}

function unfollow(id) {
  written.get(id)?.source.close();
  written.delete(id);
}

/** The two answers at the end of the open branch that are compared, or none. */
function twins() {
  const pair = talk ? compared(talk.id) : [];
  return pair.some(({ id }) => id === leaf) && pair.every(({ id }) => messages.has(id)) ? pair : [];
}

/** Go on from one of the answers that are compared. */
function keep(id, model) {
  compare(talk.id, []);
  leaf = id;
  keepPlace({ leaf });
  comparing.choose(model);
  show();
}

/** A key for each fold: its message and its kind. */
const named = (fold) => `${fold.closest(".message").id} ${fold.dataset.name}`;

const laid = (part) => part.map((message) => new Message(message, siblings.get(message.parent_id), acts));

// The end of a long conversation is rendered first, the rest when the user scrolls up.
let path = []; // messages not rendered yet
let siblings = new Map();
const top = make("div", { className: "top" });
new IntersectionObserver(
  ([seen]) => {
    if (!seen.isIntersecting || !path.length) return;
    const first = top.nextElementSibling;
    const before = first.getBoundingClientRect().top;
    top.after(...laid(path.splice(-PAGE)).map((message) => message.element));
    // What the browser has not corrected by itself.
    list.scrollTop += first.getBoundingClientRect().top - before;
  },
  { root: list, rootMargin: "1200px 0px 0px 0px" },
).observe(top);

const reading = new Reading(list, at("to-end"));

function busy(yes) {
  at("stop").hidden = !yes;
  at("send").hidden = yes;
  list.setAttribute("aria-busy", String(yes));
}

const LOOK = { soon: 300, late: 5000 }; // milliseconds between two looks for the end of an answer

/** Update a finished answer. Other messages stay as they are: the user may be editing or reading
 * one. */
async function over(id, pause = LOOK.soon) {
  if (!written.has(id)) return;
  const here = shown;
  const read = await askMessages(talk);
  if (here !== shown || !written.has(id)) return;
  // The store is not up to date yet, there is no connection, or the writer has died, which is known
  // some seconds later. Each look reads the whole conversation.
  if (!read || read.find((message) => message.id === id)?.status === "growing") {
    return setTimeout(() => over(id, Math.min(2 * pause, LOOK.late)), pause);
  }
  const before = leaf;
  take(read, leaf);
  const done = messages.get(id);
  if (leaf !== before || !done) return show(); // continued elsewhere, or deleted
  written.get(id).message.end(done, twins().length ? [id] : siblings.get(done.parent_id));
  models.look();
  entitle(talk);
  unfollow(id);
  busy(written.size > 0);
}

/** Show the title that the model gives a conversation after its first answer. */
function entitle({ id, settings }) {
  const first = messages.size < 4; // the list may not know yet that its title is the plain one
  if (!(first || settings.plain_title) || !at("titles").checked) return;
  awaitTitle(
    () => calls.get(`/conversations/${id}`),
    (titled) => {
      if (talk?.id === id) talk = titled;
      loadTalks();
    },
  );
}

// -- asking

let asking = false;

/** Send what `question()` returns, after all earlier uploads to the chat are done. */
async function ask(question) {
  if (asking || !at("stop").hidden || tellGone()) return;
  if (twins().length) return tell(words("talks.keep_first"));
  asking = at("send").disabled = true;
  warming.stop();
  try {
    await opened;
    const here = shown;
    const made = await attempt(async () => {
      await files?.taken(); // the question may be about them
      if (here !== shown) return undefined; // the question stays in its input box
      const { id } = await begun();
      if (options(form).base === "files") await files.ready();
      if (here !== shown) return undefined;
      const sent = question();
      await drawing();
      const set = options(form);
      const second = comparing.model;
      const address = `/conversations/${id}/ask`;
      const { question: stored, answer } = await calls.post(address, { ...sent, options: set, title: at("titles").checked });
      const again = { again: stored.id, compared: true, options: { ...set, model: second } };
      const other = second && (await attempt(() => calls.post(address, again)))?.answer;
      if (other) compare(id, [{ id: answer.id, model: set.model }, { id: other.id, model: second }]);
      return { question: stored, answer, other, id, sent };
    });
    if (made) showAsked(made, here === shown);
  } finally {
    asking = at("send").disabled = false;
  }
}

function showAsked({ question, answer, other, id, sent }, here) {
  if (sent.images) {
    images.clear(sent.images);
    const typed = here ? form.elements.text.value : drafts.get(id);
    const left = typed.trim() === sent.text ? "" : typed; // the next question may already be typed
    if (here) form.elements.text.value = left;
    drafts.keep(id, left);
  }
  if (here) {
    messages.set(question.id, question);
    messages.set(answer.id, answer);
    if (other) messages.set(other.id, other);
    leaf = answer.id;
    show();
  }
  loadTalks();
}

/** Continue an answer that was cut off. */
async function resume({ id }) {
  if (asking || !at("stop").hidden || tellGone()) return;
  const here = shown;
  const made = await attempt(() => calls.post(`/answers/${id}/continue`, { options: options(form) }));
  if (!made || here !== shown) return;
  messages.set(id, made.answer);
  show();
  loadTalks();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = form.elements.text.value.trim();
  if (images.all.length && !sees()) return tell(words("chat.no_eyes"));
  if (text) ask(() => ({ text, parent_id: leaf, images: images.all }));
});
form.elements.text.addEventListener("input", keepDraft);
const warming = new Warming((signal) => {
  const text = form.elements.text.value;
  return calls.post("/warm", { text, parent_id: leaf ?? "", conversation: talk?.id ?? "", options: options(form) }, signal);
});
form.elements.text.addEventListener("input", () => {
  if (at("stop").hidden && !asking && !images.all.length) warming.typed(leaf ?? "", form.elements.text.value.trim().length);
});
form.elements.text.addEventListener("focus", prepare, { once: true });
form.elements.text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
at("stop").addEventListener("click", () => {
  for (const id of written.keys()) attempt(() => calls.post(`/answers/${id}/stop`));
});

at("new").addEventListener("click", async () => {
  await choose(null);
  form.elements.text.focus();
});
at("rename").addEventListener("click", () => {
  const renamed = talk;
  retype(at("title"), renamed.title, words("chat.new_title"), (text) => talks.change(renamed, { title: text }));
});
at("delete").addEventListener("click", async () => {
  const { id } = talk;
  if (!confirm(words("chat.remove", { name: talk.title || words("chat.untitled") }))) return;
  const done = await attempt(async () => (await calls.remove(`/conversations/${id}`), true));
  if (!done) return;
  drafts.keep(id, "");
  talks.without(id);
  if (talk?.id === id) await choose(null);
});

at("clear").addEventListener("click", async () => {
  if (!confirm(words("chat.clear"))) return;
  const done = await attempt(async () => (await calls.remove("/conversations"), true));
  if (!done) return;
  drafts.clear();
  await choose(null);
});

// -- the model and its settings

const presets = new Presets(page, form, at);
const models = new Models(at, calls, (model) => presets.defaults(model));
const sees = () => models.sees();
const comparing = new Compare(at, form, models.lost);
at("model").addEventListener("change", () => keepPlace({ model: at("model").value }));

// -- images and files: dropped here for the next question

const images = new Images(at("images"), sees, tell);
const files =
  at("attach") &&
  new Files(
    page,
    calls,
    attempt,
    images,
    () => attempt(begun),
    (yes) => {
      const base = form.elements.base;
      if (yes) {
        form.elements.kind.value = "knowledge";
        base.value = "files";
      } else if (base.value === "files") {
        form.elements.kind.value = "chat";
        base.selectedIndex = base.options.length > 1 ? 1 : -1;
      }
      if (at("no-base")) at("no-base").hidden = yes;
      kinds(form);
    },
  );

microphone(at("microphone"), calls, attempt, tell, (said) => {
  const { text } = form.elements;
  text.setRangeText(`${/\S$/.test(text.value.slice(0, text.selectionStart)) ? " " : ""}${said}`, text.selectionStart, text.selectionEnd, "end");
  text.dispatchEvent(new Event("input", { bubbles: true }));
  text.focus();
});
archive(at, calls, attempt, tell, loadTalks);
titleSetting(at("titles"));
share(at("share"), calls, attempt, () => ({ id: talk.id, leaf }));
frame(page, form, at, () => form.requestSubmit());
shortcuts(form.elements.text, {
  stop: () => !at("stop").hidden && (at("stop").click(), true),
  edit: () => {
    const last = branch().findLast((message) => message.role === "user");
    const pencil = last && document.getElementById(last.id)?.querySelector(".foot [data-act='edit']");
    pencil?.click();
    return Boolean(pencil);
  },
});
// A link to another conversation, as those of the command palette.
window.addEventListener("hashchange", () => location.hash.slice(1) !== (talk?.id ?? "") && open());
// Immediately, as the user may go on typing.
form.elements.text.value = drafts.get(location.hash.slice(1));
const opened = open();

async function open() {
  const mine = chosen;
  await Promise.all([loadTalks(), models.read]);
  const wanted = location.hash.slice(1);
  const address = `/conversations/${encodeURIComponent(wanted)}`;
  const wanted_talk = wanted && (talks.find(wanted) ?? (await attempt(() => calls.get(address))));
  if (mine === chosen) await choose(wanted_talk || null, null, true);
}
