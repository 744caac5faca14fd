// The chat page: conversations on one side, the branch that is looked at on the other.

import { Calls } from "../panels/calls.js";
import { keyed, make, say } from "../panels/dom.js";
import { Files } from "./files.js";
import { Images } from "./images.js";
import { Message } from "./message.js";
import { words } from "./words.js";

const page = document.getElementById("chat");
const NUMBERS = ["temperature", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "seed"];
const TALKS = Number(page.dataset.talks); // conversations told of at once
const PAGE = 30; // messages laid out at once
const KEPT = "slotproxy settings"; // in this browser

const at = (name) => page.querySelector(`[data-part="${name}"]`);
const calls = new Calls(page.dataset.api, page.dataset.csrf);
const form = at("ask");
const list = at("messages");

let talks = [];
let searched = "";
let talk = null;
let messages = new Map();
let leaf = null; // the last message of the branch that is shown
let growing = null; // the answer that is being written, here

// -- what went wrong: it stays until something else is done, whatever the page asks by itself

const tell = (text) => say(at("told"), text);
for (const name of ["change", "click", "drop", "paste", "submit"]) page.addEventListener(name, () => tell(""), true);

function lost(yes) {
  if (yes) tell(words.no_connection);
  else if (at("told").textContent === words.no_connection) tell("");
}

async function attempt(work) {
  try {
    const done = await work();
    lost(false);
    return done;
  } catch (error) {
    if (error.status === undefined) throw error;
    if (error.status) tell(error.message || words.broken);
    else lost(true);
    return undefined;
  }
}

// -- conversations

const askTalks = (before = "") => {
  const asked = new URLSearchParams({ search: searched, before });
  return attempt(() => calls.get(`/conversations?${asked}`));
};

/** The newest anew; those further down that were shown stay. */
async function loadTalks() {
  const search = at("find").value.trim();
  const kept = search === searched ? talks : [];
  searched = search;
  const found = await askTalks();
  if (!found || search !== searched) return;
  const known = new Set(found.map((one) => one.id));
  const whole = found.length < TALKS;
  const older = whole ? [] : kept.filter((one) => one.changed < found.at(-1).changed && !known.has(one.id));
  talks = [...found, ...older];
  if (!older.length) at("more").hidden = whole;
  showTalks();
}

async function moreTalks() {
  const found = await askTalks(talks.at(-1).changed);
  if (!found) return;
  talks = [...talks, ...found];
  at("more").hidden = found.length < TALKS;
  showTalks();
}

function showTalks() {
  keyed(at("talks"), talks, (one) => one.id, () => {
    const button = make("button", { type: "button", onclick: () => choose(item.talk) });
    const item = make("li", {}, button);
    item.update = (one) => {
      item.talk = one;
      say(button, one.title || words.untitled);
      button.setAttribute("aria-current", String(one.id === talk?.id));
    };
    return item;
  });
}

async function choose(next) {
  talk = next;
  leaf = null;
  messages = new Map();
  history.replaceState(null, "", next ? `#${next.id}` : location.pathname);
  if (next) await loadMessages();
  show();
  await files?.show(talk);
  await loadTalks();
}

async function loadMessages(wanted) {
  const found = await attempt(() => calls.get(`/conversations/${talk.id}/messages`));
  if (!found) return;
  messages = new Map(found.map((one) => [one.id, one]));
  leaf = wanted ? newest(wanted) : (found.at(-1)?.id ?? null);
}

const children = (parent) => [...messages.values()].filter((one) => one.parent_id === parent);

/** The end of the branch that goes on from a message, by the newest of each. */
function newest(id) {
  for (let next; (next = children(id).at(-1)); ) id = next.id;
  return id;
}

function branch() {
  const path = [];
  for (let one = messages.get(leaf); one; one = messages.get(one.parent_id)) path.unshift(one);
  return path;
}

// -- messages

const acts = {
  again: (message) => ask({ again: message.parent_id }),
  edit: (message, text) => ask({ text, parent_id: message.parent_id, images_of: message.id }),
  image: (message, n) => `${page.dataset.api}/messages/${message.id}/images/${n}`,
  rate: (message, score, reason) => attempt(() => calls.post(`/answers/${message.id}/feedback`, { score, reason })),
  turn: (id) => {
    leaf = newest(id);
    show();
  },
};

function show() {
  growing?.close();
  growing = null;
  say(at("title"), talk?.title || (talk ? words.untitled : words.chat));
  at("talk-actions").hidden = !talk;
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
  list.replaceChildren(top, ...made.map((one) => one.element));
  for (const one of list.querySelectorAll("details")) one.open = unfolded.has(named(one));
  at("welcome").hidden = made.length > 0;
  const last = made.at(-1);
  busy(last?.message.status === "growing");
  if (last?.message.status === "growing") {
    const { id } = last.message;
    growing = last.follow(`${page.dataset.api}/answers/${id}/events`, () => over(id), lost);
  }
  list.scrollTop = list.scrollHeight;
}

/** A fold, by whose and what it is. */
const named = (fold) => `${fold.closest(".message").id} ${fold.dataset.name}`;

const laid = (some) => some.map((one) => new Message(one, siblings.get(one.parent_id), acts));

// Of a long conversation the end is laid out, and what comes before when it is scrolled to.
let path = []; // what is not laid out yet
let siblings = new Map();
const top = make("div", { className: "top" });
new IntersectionObserver(
  ([seen]) => {
    if (!seen.isIntersecting || !path.length) return;
    const before = list.scrollHeight - list.scrollTop;
    top.after(...laid(path.splice(-PAGE)).map((one) => one.element));
    list.scrollTop = list.scrollHeight - before;
  },
  { root: list, rootMargin: "1200px 0px 0px 0px" },
).observe(top);

// What is read stays where it is, unless it is the end that is looked at.
let following = true;
list.addEventListener("scroll", () => {
  following = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
});
new MutationObserver(() => {
  if (following) list.scrollTop = list.scrollHeight;
}).observe(list, { childList: true, subtree: true, characterData: true });

function busy(yes) {
  at("stop").hidden = !yes;
  at("send").hidden = yes;
  list.setAttribute("aria-busy", String(yes));
}

async function over(id) {
  if (leaf !== id) return;
  await loadMessages(id);
  // The page was quicker than the store: it is written, but not told as such yet.
  if (messages.get(id)?.status === "growing") return setTimeout(() => over(id), 300);
  show();
}

// -- asking

function options() {
  const fields = new FormData(form);
  const number = (name) => (fields.get(name) ? Number(fields.get(name)) : null);
  const sampling = Object.fromEntries(NUMBERS.map((name) => [name, number(name)]).filter(([, value]) => value !== null));
  if (number("top_k_sampling") !== null) sampling.top_k = number("top_k_sampling");
  const kind = fields.get("kind");
  const asked = { kind, system: fields.get("system"), model: fields.get("model"), sampling };
  asked.template = fields.get(`template_${kind}`);
  asked.max_tokens = number("max_tokens");
  asked.history = number("history");
  if (kind === "knowledge") {
    asked.base = fields.get("base");
    asked.top_k = number("top_k");
    asked.score_threshold = number("score_threshold") || null;
  }
  if (kind === "search") asked.engine = fields.get("engine");
  return asked;
}

let asking = false;

async function ask(question) {
  if (asking || !at("stop").hidden) return;
  asking = true;
  const made = await attempt(async () => {
    await files?.taken(); // what is asked may be about them
    talk ??= await calls.post("/conversations");
    if (options().base === "files") await files.ready();
    return calls.post(`/conversations/${talk.id}/ask`, { ...question, options: options() });
  }).finally(() => (asking = false));
  if (!made) return;
  if (question.images) {
    form.elements.text.value = "";
    images.clear();
  }
  messages.set(made.question.id, made.question);
  messages.set(made.answer.id, made.answer);
  leaf = made.answer.id;
  following = true;
  history.replaceState(null, "", `#${talk.id}`);
  await loadTalks();
  talk = talks.find((one) => one.id === talk.id) ?? talk;
  show();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = form.elements.text.value.trim();
  if (images.all.length && !sees()) return tell(words.no_eyes);
  if (text) ask({ text, parent_id: leaf, images: images.all });
});
form.elements.text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
at("stop").addEventListener("click", () => leaf && attempt(() => calls.post(`/answers/${leaf}/stop`)));

function kinds() {
  const kind = new FormData(form).get("kind");
  for (const part of form.querySelectorAll("[data-for]")) part.hidden = part.dataset.for !== kind;
}
form.addEventListener("change", () => {
  kinds();
  const kept = [...new FormData(form)].filter(([name]) => name !== "text");
  localStorage.setItem(KEPT, JSON.stringify(kept));
});

function remembered() {
  try {
    for (const [name, value] of JSON.parse(localStorage.getItem(KEPT) ?? "[]")) {
      const field = form.elements[name];
      if (field && name !== "base") field.value = value;
    }
  } catch {
    localStorage.removeItem(KEPT);
  }
  if (form.querySelector('[name="kind"]:checked')?.disabled) form.elements.kind.value = "chat";
}

at("new").addEventListener("click", async () => {
  await choose(null);
  form.elements.text.focus();
});
at("find").addEventListener("input", loadTalks);
at("more").addEventListener("click", moreTalks);
at("rename").addEventListener("click", async () => {
  const title = prompt(words.new_title, talk.title);
  if (!title) return;
  talk = (await attempt(() => calls.put(`/conversations/${talk.id}`, { title }))) ?? talk;
  say(at("title"), talk.title);
  await loadTalks();
});
at("delete").addEventListener("click", async () => {
  if (!confirm(words.remove(talk.title || words.untitled))) return;
  const done = await attempt(async () => (await calls.remove(`/conversations/${talk.id}`), true));
  if (!done) return;
  talks = talks.filter((one) => one.id !== talk.id);
  await choose(null);
});

at("clear").addEventListener("click", async () => {
  if (!confirm(words.clear)) return;
  const done = await attempt(async () => (await calls.remove("/conversations"), true));
  if (done) await choose(null);
});

// -- images and files: what is dropped here is what is asked about next

const sees = () => (form.elements.model?.selectedOptions[0] ?? page).dataset.sees === "true";
const images = new Images(at("images"), sees, tell);
const files =
  at("attach") &&
  new Files(
    page,
    calls,
    attempt,
    images,
    async () => {
      if (!talk) {
        talk = (await attempt(() => calls.post("/conversations"))) ?? null;
        if (talk) history.replaceState(null, "", `#${talk.id}`);
      }
      return talk;
    },
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
      kinds();
    },
  );

remembered();
kinds();
if (matchMedia("(max-width: 56rem)").matches) at("talks-fold").open = false;
await loadTalks();
const wanted = location.hash.slice(1);
const path_of = `/conversations/${encodeURIComponent(wanted)}`;
const known = talks.find((one) => one.id === wanted);
await choose(known ?? (wanted ? ((await attempt(() => calls.get(path_of))) ?? null) : null));
