// The page of keys, users and teams: lists with a search, dialogs to change them, and the changes.

import { card, invited } from "./account_cards.js";
import { Dialogs } from "./account_dialogs.js";
import { words } from "./words.js";
import { Calls } from "./calls.js";
import { keyed, make, say } from "./dom.js";

const SIZE = 25; // entries of a page
const PAUSE = 250; // milliseconds without a keystroke until the search begins

const page = document.getElementById("accounts");
const at = (name) => page.querySelector(`[data-part="${name}"]`);
const calls = new Calls(page.dataset.api, page.dataset.csrf);
const dialogs = new Dialogs(page, calls, load);

// The lists: where each is read, where it is changed, and the fields that identify and name its
// entries.
const LISTS = {
  keys: { path: "/key", size: "size", total: "total_count", id: "token", name: "key_alias", many: "keys" },
  users: { path: "/user", size: "page_size", total: "total", id: "user_id", name: "user_alias", many: "user_ids" },
  teams: { path: "/team", size: "page_size", total: "total", id: "team_id", name: "team_alias", many: "team_ids" },
};

let shown = "keys";
// The numbers of the last changes on the pages before this one. For lists only their count matters.
let turned = [];
let lastChange = 0;
let reads = 0;

const title = (list, entry) => entry[list.name] || entry.key_id || entry[list.id];

async function load() {
  const mine = ++reads;
  at("list").setAttribute("aria-busy", "true");
  try {
    const listed = await (shown === "changes" ? readChanges() : readList(LISTS[shown]));
    if (mine !== reads) return; // another choice came first
    draw(listed);
  } catch (error) {
    if (error.status === undefined) throw error;
    if (mine === reads) tell(reason(error), true);
  }
  if (mine === reads) at("list").setAttribute("aria-busy", "false");
}

async function readList(list) {
  const number = turned.length + 1;
  const query = new URLSearchParams({ page: number, [list.size]: SIZE, search: at("search").search.value });
  if (shown === "keys") query.set("return_full_object", "true");
  const answer = await calls.get(`${list.path}/list?${query}`);
  const last = Math.max(1, answer.total_pages);
  if (number > last) {
    turned.length = last - 1; // the last entry of a page was deleted
    return readList(list);
  }
  return { entries: answer[shown], place: words("keys.place", { page: number, pages: last }), first: number === 1, last: number === last };
}

async function readChanges() {
  const query = new URLSearchParams({ limit: SIZE + 1, before: turned.at(-1) ?? "" });
  const { data } = await calls.get(`/audit?${query}`);
  const entries = data.slice(0, SIZE);
  lastChange = entries.at(-1)?.number;
  return { entries, place: "", first: !turned.length, last: data.length <= SIZE };
}

function draw({ entries, place, first, last }) {
  const list = LISTS[shown];
  at("none").hidden = entries.length > 0;
  say(at("none"), at("search").search.value && list ? words("keys.not_found") : words(`keys.none.${shown}`));
  keyed(at("list"), entries, (entry) => `${shown} ${list ? entry[list.id] : entry.number}`, (row) =>
    card(shown, row, list ? (entry) => actions(list, entry) : null, page.dataset.priced === "true"),
  );
  at("pages").hidden = first && last;
  at("before").disabled = first;
  at("after").disabled = last;
  say(at("place"), place);
}

// -- what can be done with an entry

function actions(list, entry) {
  const name = title(list, entry);
  const id = entry[list.id];
  const own = { [list.many === "keys" ? "key" : list.id]: id };
  const button = (text, work, more = "") =>
    make("button", { type: "button", className: `quiet ${more}`, "aria-label": `${text} ${name}`, onclick: work }, text);
  const block = entry.blocked ? "unblock" : "block";
  if (invited(entry)) return [button(words("common.remove"), () => remove(list, id, name), "danger")];
  return [
    button(words("common.edit"), () => dialogs.edit(shown, entry, name)),
    shown === "keys" ? button(words("keys.renew"), () => dialogs.renew(entry, name)) : null,
    shown === "keys" ? null : button(words("common.keys"), () => open("keys", id)),
    button(words(`keys.act.${block}`), () =>
      shown === "users"
        ? change("/user/update", { ...own, blocked: !entry.blocked })
        : change(`${list.path}/${block}`, own),
    ),
    button(words("common.remove"), () => remove(list, id, name), "danger"),
  ];
}

async function remove(list, id, name) {
  if (!confirm(words(`keys.sure.${shown}`, { name }))) return;
  await change(`${list.path}/delete`, { [list.many]: [id] });
}

async function change(path, body) {
  try {
    await calls.post(path, body);
    tell("");
  } catch (error) {
    if (error.status === undefined) throw error;
    tell(reason(error), true);
  }
  await load();
}

// -- the choice of a list, search and pages

function open(list, search = "") {
  at("search").search.value = search;
  if (location.hash === `#${list}`) choose();
  else location.hash = list;
}

function choose() {
  const wanted = location.hash.slice(1);
  const next = wanted in LISTS || wanted === "changes" ? wanted : "keys";
  if (next !== shown && next !== "keys") at("search").search.value = "";
  shown = next;
  turned = [];
  for (const link of page.querySelectorAll(".tabs a")) {
    link.setAttribute("aria-current", String(link.hash === `#${shown}`));
  }
  at("tools").hidden = shown === "changes";
  at("invite").hidden = at("note").hidden = shown !== "keys";
  say(at("title"), words(`keys.title.${shown}`));
  say(at("new"), words(`keys.new.${shown}`, {}, ""));
  tell("");
  load();
}

function turn(by) {
  if (by < 0) turned.pop();
  else turned.push(lastChange);
  load();
}

function tell(text, bad = false) {
  at("told").dataset.state = bad ? "bad" : "good";
  say(at("told"), text);
}

const reason = (error) => error.message || (error.status ? words("common.failed_request") : words("common.no_connection"));

let typed = 0;
at("search").addEventListener("submit", (event) => event.preventDefault());
at("search").addEventListener("input", () => {
  clearTimeout(typed);
  reads += 1; // a list that is still to come is not the wanted one
  at("list").setAttribute("aria-busy", "true");
  typed = setTimeout(() => {
    turned = [];
    load();
  }, PAUSE);
});
at("new").addEventListener("click", () => dialogs.edit(shown, null, ""));
at("invite").addEventListener("click", () => dialogs.invite());
at("before").addEventListener("click", () => turn(-1));
at("after").addEventListener("click", () => turn(1));
addEventListener("hashchange", choose);
choose();
