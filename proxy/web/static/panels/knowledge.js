// The knowledge page: the list of bases, and the documents, uploads and search of the chosen base.

import { Calls } from "./calls.js";
import { chunks } from "./chunks.js";
import { icon, keyed, make, say } from "./dom.js";
import { measure, percent, size } from "./form.js";
import { place } from "./places.js";
import { words } from "./words.js";

const OVER = new Set(["ready", "failed", "cancelled"]);
const HAN = /\p{Script=Han}/u;
const FEW = 5; // documents whose actions all have room
// Words that say nothing about what a passage is about; they are marked only if there are no others.
const COMMON = new Set(
  `a about an and are as at be been but by can did do does for from had has have he her his how i if in into is it its
  me my no not of on or our she so than that the their them then there these they this to was we were what when where
  which who whom whose why will with would you your`.split(/\s+/),
);
const LOOK = 700; // milliseconds between two polls while documents are read

const page = document.getElementById("knowledge");
const at = (name) => page.querySelector(`[data-part="${name}"]`);
const calls = new Calls(page.dataset.api, page.dataset.csrf);
const most = Number(page.dataset.most);

let bases = [];
let chosen = null;
let looking = 0;
let reading = false;
let many = false; // documents: their actions are in menus
// Request counts; answers to all but the last request are ignored.
const reads = { bases: 0, documents: 0, hits: 0 };

// -- messages and errors

function tell(text, bad = false) {
  const line = at("told");
  line.dataset.state = bad ? "bad" : "good";
  say(line, text);
}

/** Run `work` and show its error. */
async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error.status === undefined) throw error;
    tell(error.message || (error.status ? words("knowledge.failed_request") : words("common.no_connection")), true);
    return undefined;
  }
}

/** The same for a button, which ignores clicks until the work is done. */
async function once(button, work) {
  if (button.disabled) return undefined;
  button.disabled = true;
  try {
    return await attempt(work);
  } finally {
    button.disabled = false;
  }
}

// -- bases

async function loadBases(wanted) {
  const mine = ++reads.bases;
  const listed = await attempt(() => calls.get(""));
  if (mine !== reads.bases) return;
  bases = listed ?? bases;
  at("no-bases").hidden = bases.length > 0;
  if (listed) at("new-fold").open = !bases.length;
  const next = bases.find((base) => base.id === (wanted ?? chosen?.id)) ?? bases[0] ?? null;
  await choose(next);
}

function showBases() {
  keyed(at("bases"), bases, (base) => base.id, () => {
    const name = make("span", { className: "name" });
    const info = make("span", { className: "note" });
    const button = make("button", { type: "button", onclick: () => choose(item.base) }, name, info);
    const item = make("li", {}, button);
    item.update = (base) => {
      item.base = base;
      say(name, base.name);
      say(info, base.info || base.embedding_model || "");
      button.setAttribute("aria-current", String(base.id === chosen?.id));
    };
    return item;
  });
}

async function choose(base) {
  const other = base?.id !== chosen?.id;
  chosen = base;
  showBases();
  at("base").hidden = base === null;
  if (!base) return;
  say(at("base-name"), base.name);
  at("ask").href = `${document.body.dataset.home}?${new URLSearchParams({ base: base.id })}`;
  say(at("base-info"), [base.info, base.embedding_model].filter(Boolean).join(" · "));
  if (other) {
    reads.hits += 1;
    at("hits").replaceChildren();
    at("documents").replaceChildren();
    tell("");
  }
  await loadDocuments();
}

at("new-base").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const { name, info } = Object.fromEntries(new FormData(form));
  const made = await once(form.querySelector("button"), () => calls.post("", { name, info }));
  if (!made) return;
  form.reset();
  tell("");
  await loadBases(made.id);
});

at("delete-base").addEventListener("click", async () => {
  if (!confirm(words("knowledge.remove_base", { name: chosen.name }))) return;
  const { id } = chosen;
  const done = await once(at("delete-base"), async () => (await calls.remove(`/${id}`), true));
  if (done) await loadBases();
});

at("rebuild").addEventListener("click", () => once(at("rebuild"), rebuild));

async function rebuild() {
  const job = await attempt(() => calls.post(`/${chosen.id}/rebuild`));
  if (!job) return;
  const bar = at("rebuild-progress");
  bar.hidden = false;
  let now = job;
  while (now?.status === "running") {
    bar.value = now.total ? now.done / now.total : 0;
    tell(`${words("knowledge.rebuilding")} ${percent(bar.value)}`);
    await new Promise((done) => setTimeout(done, LOOK));
    now = await attempt(() => calls.get(`/jobs/${job.id}`));
  }
  bar.hidden = true;
  if (now) tell(now.failed ? words("knowledge.rebuilt_partly", { n: now.failed }) : words("knowledge.rebuilt"), now.failed > 0);
  await loadDocuments();
}

// -- documents

async function loadDocuments() {
  clearTimeout(looking);
  const mine = ++reads.documents;
  const base = chosen;
  if (!base) return;
  const documents = await attempt(() => calls.get(`/${base.id}/documents`));
  if (mine !== reads.documents) return;
  if (documents) reading = documents.some((entry) => !OVER.has(entry.status));
  if (reading) looking = setTimeout(loadDocuments, LOOK); // even if a request failed
  if (!documents) return;
  at("no-documents").hidden = documents.length > 0;
  say(at("count"), documents.length ? words("knowledge.documents", { n: documents.length }) : "");
  many = documents.length > FEW;
  at("documents").classList.toggle("many", many);
  keyed(at("documents"), documents, (entry) => entry.id, document_);
}

function document_(first) {
  const path = `/${chosen.id}/documents/${first.id}`;
  const state = make("span", { className: "state" });
  const bar = make("progress", { max: 1, "aria-label": first.filename });
  const note = make("span", { className: "note" });
  const error = make("p", { className: "error" });
  const look = make("button", { type: "button", className: "quiet" }, words("knowledge.look"));
  const load = make("a", { className: "quiet", href: `${page.dataset.api}${path}/original` }, words("knowledge.download"));
  const away = make("button", { type: "button", className: "quiet danger" }, words("common.remove"));
  const fold = menu(first.filename, load, away);
  look.addEventListener("click", () => once(look, () => chunks(at("chunks"), calls, path, first.filename, attempt)));
  away.addEventListener("click", async () => {
    if (!confirm(words("knowledge.remove_document", { name: first.filename }))) return;
    await once(away, () => calls.remove(path));
    await loadDocuments();
  });
  const row = make(
    "li",
    { className: "card document" },
    make("div", { className: "what" }, make("strong", {}, first.filename), state, note),
    make("div", { className: "actions" }, look, fold),
    bar,
    error,
  );
  row.update = (entry) => {
    const over = OVER.has(entry.status);
    state.dataset.state = { ready: "up", failed: "down" }[entry.status] ?? "busy";
    say(state, words(`knowledge.status.${entry.status}`, {}, entry.status));
    say(note, [entry.size ? size(entry.size) : "", entry.chunks ? words("knowledge.chunks", { n: entry.chunks }) : ""].filter(Boolean).join(" · "));
    bar.hidden = over;
    if (entry.done > 0) bar.value = entry.done;
    else bar.removeAttribute("value");
    error.hidden = !entry.error;
    say(error, entry.error ?? "");
    look.disabled = entry.status !== "ready";
    fold.update();
  };
  return row;
}

/** Buttons side by side, or in a menu while there are many documents. */
function menu(name, ...buttons) {
  const label = words("knowledge.more", { name });
  const summary = make("summary", { className: "quiet", "aria-label": label, title: label }, icon("dots"));
  const element = make("details", { className: "menu" }, summary, make("div", { className: "actions" }, buttons));
  let folds = null;
  element.update = () => {
    if (folds !== many) element.open = !many;
    folds = many;
  };
  return element;
}

/** Close open menus, except that of `target`. */
function closeMenus(target) {
  for (const other of at("documents").querySelectorAll(".menu[open]")) if (many && !other.contains(target)) other.open = false;
}
document.addEventListener("click", ({ target }) => closeMenus(target));
document.addEventListener("keydown", ({ key, target }) => {
  if (key !== "Escape") return;
  target.closest(".menu")?.querySelector("summary").focus();
  closeMenus(null);
});

// -- uploads: first the bytes, then the document's progress

const files = at("files");
const drop = at("drop");

files.addEventListener("change", () => {
  upload([...files.files]);
  files.value = "";
});
for (const name of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") upload([...event.dataTransfer.files]);
  });
}

/** Upload all files to the base that is open now. Errors stay visible when later files succeed. */
async function upload(all) {
  tell("");
  const { id } = chosen;
  const names = [...at("documents").querySelectorAll("strong")].map((element) => element.textContent);
  const wrong = [];
  for (const file of all) {
    const replace = names.includes(file.name);
    if (file.size > most) wrong.push(words("knowledge.too_large", { name: file.name, most: size(most) }));
    else if (!replace || confirm(words("knowledge.there_already", { name: file.name }))) {
      try {
        await send(file, id, replace);
      } catch (error) {
        if (error.status === undefined) throw error;
        const reason = error.message || (error.status ? words("knowledge.failed_request") : words("common.no_connection"));
        wrong.push(`${file.name}: ${reason}`);
      }
    }
    if (wrong.length) tell(wrong.join(" · "), true);
  }
}

async function send(file, base, replace) {
  const bar = make("progress", { max: 1, value: 0, "aria-label": file.name });
  const text = make("span", {}, words("knowledge.sending", { name: file.name, part: percent(0) }));
  const row = make("li", {}, text, bar);
  at("uploads").append(row);
  const query = `?name=${encodeURIComponent(file.name)}${replace ? "&replace=1" : ""}`;
  try {
    await calls.send(`/${base}/documents${query}`, file, (sent, whole) => {
      bar.value = whole ? sent / whole : 0;
      say(text, words("knowledge.sending", { name: file.name, part: percent(bar.value) }));
    });
  } finally {
    row.remove();
  }
  tell(words("knowledge.sent", { name: file.name }));
  await loadDocuments();
}

// -- search: the hits of a question in the chat

at("search").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { query, top_k, least } = Object.fromEntries(new FormData(event.target));
  const wanted = { query, top_k: Number(top_k) };
  if (Number(least) > 0) wanted.score_threshold = Number(least);
  const mine = ++reads.hits;
  const hits = await attempt(() => calls.post(`/${chosen.id}/search`, wanted));
  if (!hits || mine !== reads.hits) return;
  tell(hits.length ? "" : words("knowledge.nothing_found"));
  at("hits").replaceChildren(...hits.map((chunk, n) => hit(chunk, n + 1, query)));
});

function hit(chunk, rank, query) {
  const terms = matched(query, chunk.text);
  const shown = terms.map((term) => `“${term}”`).join(", ");
  const near = words("knowledge.nearness", { value: measure(chunk.score) });
  const why = [
    chunk.lexical_rank ? words("knowledge.lexical", { n: chunk.lexical_rank }) : "",
    chunk.vector_rank ? words("knowledge.vector", { n: chunk.vector_rank }) : "",
    terms.length ? words("knowledge.by_words", { words: shown }) : chunk.lexical_rank ? "" : words("knowledge.by_meaning"),
  ];
  return make(
    "li",
    { className: "card hit" },
    make(
      "div",
      { className: "what" },
      make("span", { className: "number" }, words("knowledge.rank", { n: rank })),
      make("strong", {}, chunk.filename),
      make("span", { className: "note" }, place(chunk.place)),
    ),
    make("div", { className: "near" }, make("span", { className: "note" }, near), make("meter", { min: 0, max: 1, value: chunk.score, "aria-label": near })),
    make("p", { className: "text" }, ...marked(chunk.text, terms)),
    make("p", { className: "note" }, why.filter(Boolean).join(" · ")),
  );
}

/** Return the query's words in the text, without common ones. Chinese has no blanks and is split
 * into pairs. */
function matched(query, text) {
  const matches = new Set();
  for (const [run] of query.toLowerCase().matchAll(/[\p{L}\p{N}]+/gu)) {
    const signs = [...run];
    const pairs = HAN.test(run) && signs.length > 2;
    const terms = pairs ? signs.slice(1).map((sign, n) => signs[n] + sign) : [run];
    for (const term of terms) if (pattern([term]).test(text)) matches.add(term);
  }
  const telling = [...matches].filter((term) => !COMMON.has(term));
  return query.toLowerCase().match(/[\p{L}\p{N}]+/gu)?.every((word) => COMMON.has(word)) ? [...matches] : telling;
}

/** A pattern for any of the terms, as a whole word unless it is Chinese. */
function pattern(terms) {
  const whole = terms.map((term) =>
    HAN.test(term) ? term : `(?<![\\p{L}\\p{N}])${term}(?![\\p{L}\\p{N}])`,
  );
  return new RegExp(`(${whole.join("|")})`, "iu");
}

function marked(text, terms) {
  if (!terms.length) return [text];
  return text.split(pattern(terms)).map((part, n) => (n % 2 ? make("mark", {}, part) : part));
}

loadBases();
