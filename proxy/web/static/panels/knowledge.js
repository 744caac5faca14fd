// The knowledge page: bases on one side, the chosen one's documents, uploads and search on the other.

import { Calls } from "./calls.js";
import { chunks } from "./chunks.js";
import { keyed, make, say } from "./dom.js";
import { measure, percent, size } from "./form.js";
import { place } from "./places.js";
import { words } from "./knowledge_words.js";

const OVER = new Set(["ready", "failed", "cancelled"]);
const HAN = /\p{Script=Han}/u;
const LOOK = 700; // milliseconds between two looks while documents are read

const page = document.getElementById("knowledge");
const at = (name) => page.querySelector(`[data-part="${name}"]`);
const calls = new Calls(page.dataset.api, page.dataset.csrf);
const most = Number(page.dataset.most);

let bases = [];
let chosen = null;
let looking = 0;

// -- what went wrong, and what went well

function tell(text, bad = false) {
  const place = at("told");
  place.dataset.state = bad ? "bad" : "good";
  say(place, text);
}

/** Do it, and tell where it fails. */
async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error.status === undefined) throw error;
    tell(error.message || (error.status ? words.failed_request : words.no_connection), true);
    return undefined;
  }
}

// -- bases

async function loadBases(wanted) {
  bases = (await attempt(() => calls.get(""))) ?? bases;
  at("no-bases").hidden = bases.length > 0;
  const next = bases.find((one) => one.id === (wanted ?? chosen?.id)) ?? bases[0] ?? null;
  await choose(next);
}

function showBases() {
  keyed(at("bases"), bases, (one) => one.id, (base) => {
    const name = make("span", { className: "name" });
    const info = make("span", { className: "note" });
    const button = make("button", { type: "button", onclick: () => choose(item.base) }, name, info);
    const item = make("li", {}, button);
    item.update = (one) => {
      item.base = one;
      say(name, one.name);
      say(info, one.info || one.embedding_model || "");
      button.setAttribute("aria-current", String(one.id === chosen?.id));
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
  say(at("base-info"), [base.info, base.embedding_model].filter(Boolean).join(" · "));
  if (other) {
    at("hits").replaceChildren();
    at("uploads").replaceChildren();
    at("documents").replaceChildren();
    tell("");
  }
  await loadDocuments();
}

at("new-base").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const { name, info } = Object.fromEntries(new FormData(form));
  const made = await attempt(() => calls.post("", { name, info }));
  if (!made) return;
  form.reset();
  tell("");
  await loadBases(made.id);
});

at("delete-base").addEventListener("click", async () => {
  if (!confirm(words.remove_base(chosen.name))) return;
  const done = await attempt(async () => (await calls.remove(`/${chosen.id}`), true));
  if (done) await loadBases();
});

at("rebuild").addEventListener("click", async () => {
  const job = await attempt(() => calls.post(`/${chosen.id}/rebuild`));
  if (!job) return;
  const bar = at("rebuild-progress");
  bar.hidden = false;
  let now = job;
  while (now?.status === "running") {
    bar.value = now.total ? now.done / now.total : 0;
    tell(`${words.rebuilding} ${percent(bar.value)}`);
    await new Promise((done) => setTimeout(done, LOOK));
    now = await attempt(() => calls.get(`/jobs/${job.id}`));
  }
  bar.hidden = true;
  if (now) tell(now.failed ? words.rebuilt_partly(now.failed) : words.rebuilt, now.failed > 0);
  await loadDocuments();
});

// -- documents

async function loadDocuments() {
  clearTimeout(looking);
  const base = chosen;
  if (!base) return;
  const found = await attempt(() => calls.get(`/${base.id}/documents`));
  if (!found || base.id !== chosen?.id) return;
  at("no-documents").hidden = found.length > 0;
  say(at("count"), found.length ? words.documents(found.length) : "");
  keyed(at("documents"), found, (one) => one.id, document_);
  if (found.some((one) => !OVER.has(one.status))) looking = setTimeout(loadDocuments, LOOK);
}

function document_(first) {
  const path = `/${chosen.id}/documents/${first.id}`;
  const state = make("span", { className: "state" });
  const bar = make("progress", { max: 1, "aria-label": first.filename });
  const note = make("span", { className: "note" });
  const error = make("p", { className: "error" });
  const look = make("button", { type: "button", className: "quiet" }, words.look);
  const load = make("a", { className: "quiet", href: `${page.dataset.api}${path}/original` }, words.download);
  const away = make("button", { type: "button", className: "quiet danger" }, words.remove);
  look.addEventListener("click", () => chunks(at("chunks"), calls, path, first.filename, attempt));
  away.addEventListener("click", async () => {
    if (!confirm(words.remove_document(first.filename))) return;
    await attempt(() => calls.remove(path));
    await loadDocuments();
  });
  const row = make(
    "li",
    { className: "card document" },
    make("div", { className: "what" }, make("strong", {}, first.filename), state, note),
    bar,
    error,
    make("div", { className: "actions" }, look, load, away),
  );
  row.update = (one) => {
    const over = OVER.has(one.status);
    state.dataset.state = { ready: "up", failed: "down" }[one.status] ?? "busy";
    say(state, words[one.status] ?? one.status);
    say(note, [one.size ? size(one.size) : "", one.chunks ? words.chunks(one.chunks) : ""].filter(Boolean).join(" · "));
    bar.hidden = over;
    if (one.done > 0) bar.value = one.done;
    else bar.removeAttribute("value");
    error.hidden = !one.error;
    say(error, one.error ?? "");
    look.disabled = one.status !== "ready";
  };
  return row;
}

// -- uploads: bytes first, then the document tells how far it is read

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

async function upload(all) {
  tell("");
  for (const file of all) await attempt(() => send(file));
}

async function send(file) {
  if (file.size > most) return tell(words.too_large(file.name, size(most)), true);
  const names = [...at("documents").querySelectorAll("strong")].map((one) => one.textContent);
  const replace = names.includes(file.name);
  if (replace && !confirm(words.there_already(file.name))) return;
  const bar = make("progress", { max: 1, value: 0, "aria-label": file.name });
  const text = make("span", {}, words.sending(file.name, percent(0)));
  const row = make("li", {}, text, bar);
  at("uploads").append(row);
  const query = `?name=${encodeURIComponent(file.name)}${replace ? "&replace=1" : ""}`;
  try {
    await calls.send(`/${chosen.id}/documents${query}`, file, (sent, whole) => {
      bar.value = whole ? sent / whole : 0;
      say(text, words.sending(file.name, percent(bar.value)));
    });
  } finally {
    row.remove();
  }
  tell(words.sent(file.name));
  await loadDocuments();
}

// -- search: what a question in the chat would find

at("search").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { query, top_k, least } = Object.fromEntries(new FormData(event.target));
  const asked = { query, top_k: Number(top_k) };
  if (Number(least) > 0) asked.score_threshold = Number(least);
  const hits = await attempt(() => calls.post(`/${chosen.id}/search`, asked));
  if (!hits) return;
  tell(hits.length ? "" : words.nothing_found);
  at("hits").replaceChildren(...hits.map((one, n) => hit(one, n + 1, query)));
});

function hit(one, rank, query) {
  const terms = matched(query, one.text);
  const shown = terms.map((term) => `“${term}”`).join(", ");
  const why = [
    words.nearness(measure(one.score)),
    one.lexical_rank ? words.lexical(one.lexical_rank) : "",
    one.vector_rank ? words.vector(one.vector_rank) : "",
    terms.length ? words.by_words(shown) : one.lexical_rank ? "" : words.by_meaning,
  ];
  return make(
    "li",
    { className: "card hit" },
    make(
      "div",
      { className: "what" },
      make("span", { className: "number" }, words.rank(rank)),
      make("strong", {}, one.filename),
      make("span", { className: "note" }, place(one.place)),
    ),
    make("meter", { min: 0, max: 1, value: one.score, "aria-label": words.nearness(measure(one.score)) }),
    make("p", { className: "text" }, ...marked(one.text, terms)),
    make("p", { className: "note" }, why.filter(Boolean).join(" · ")),
  );
}

/** The words of the query that are in the text; Chinese, which has no blanks, by pairs. */
function matched(query, text) {
  const found = new Set();
  for (const [run] of query.toLowerCase().matchAll(/[\p{L}\p{N}]+/gu)) {
    const signs = [...run];
    const pairs = HAN.test(run) && signs.length > 2;
    const terms = pairs ? signs.slice(1).map((sign, n) => signs[n] + sign) : [run];
    for (const term of terms) if (pattern([term]).test(text)) found.add(term);
  }
  return [...found];
}

/** Where any of the terms stands, as a word of its own unless it is Chinese. */
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
