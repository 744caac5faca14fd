// Keys, users, teams and changes as the lists show them.

import { words } from "./account_words.js";
import { keyed, make, say } from "./dom.js";
import { count, moment } from "./form.js";

const FACTS = { keys: ofKey, users: ofUser, teams: ofTeam };
const RIGHTS = ["models", "allowed_routes", "allowed_tools", "allowed_knowledge_bases", "allowed_ips", "priority", "group"];
const COUNTS = ["max_parallel_requests", "max_queued_requests", "max_prompt_tokens", "max_completion_tokens"];

/** An element for an entry of the list `kind`; `actions(entry)` makes its buttons. */
export function card(kind, first, actions) {
  if (kind === "changes") return change(first);
  const name = make("h3", {});
  const id = make("code", { className: "note" });
  const state = make("span", { className: "state" });
  const facts = make("dl", { className: "facts" });
  const buttons = make("div", { className: "actions" });
  const what = make("div", { className: "what" }, name, id, state);
  const element = make("article", { className: "card record" }, make("header", {}, what, buttons), facts);
  let before = "";
  element.update = (entry) => {
    const now = JSON.stringify(entry);
    if (now === before) return; // the focus stays on its button
    before = now;
    say(name, entry.key_alias || entry.user_alias || entry.team_alias || entry.key_id || entry.user_id || entry.team_id);
    say(id, entry.key_name || entry.user_id || entry.team_id);
    const condition = conditionOf(entry);
    state.dataset.state = { active: "up", blocked: "down", expired: "down" }[condition];
    say(state, words[condition]);
    const known = [...FACTS[kind](entry), ...rights(entry), ...limits(entry)].filter(([, value]) => value);
    keyed(facts, known, ([label]) => label, fact);
    replaceButtons(buttons, actions(entry));
  };
  return element;
}

function conditionOf(entry) {
  if (entry.blocked) return "blocked";
  return entry.expires && Date.parse(entry.expires) <= Date.now() ? "expired" : "active";
}

/** Replace the buttons; the focus stays at its place. */
function replaceButtons(list, buttons) {
  const place = [...list.children].indexOf(document.activeElement);
  list.replaceChildren(...buttons.filter(Boolean));
  if (place >= 0) list.children[place]?.focus();
}

function ofKey(key) {
  return [
    [words.user, key.user_id],
    [words.team, key.team_id],
    [words.expires, key.expires && at(key.expires)],
    [words.created, words.created_by(at(key.created_at), key.created_by)],
    [words.key_id, key.key_alias ? key.key_id : ""],
    [words.role, key.admin ? words.administrator : ""],
  ];
}

function ofUser(user) {
  return [
    [words.email, user.user_email],
    [words.teams, user.teams.join(", ")],
    [words.created, at(user.created_at)],
  ];
}

function ofTeam(team) {
  return [
    [words.members, team.members_with_roles.map((one) => one.user_id).join(", ")],
    [words.created, at(team.created_at)],
  ];
}

function rights(entry) {
  const named = RIGHTS.map((name) => [words[name], [entry[name] ?? []].flat().join(", ")]);
  return [...named, [words.access, entry.read_only ? words.read_only : ""]];
}

function limits(entry) {
  const models = Object.entries(entry.model_limits).flatMap(([model, table]) =>
    windows(table).map((text) => words.of_model(text, model)),
  );
  const counts = COUNTS.filter((name) => entry[name] !== null).map((name) => words[name](count(entry[name])));
  const own = { ...entry, unit: "money" };
  const budgets = [own, ...entry.budget_limits].filter((one) => one.max_budget !== null || one.soft_budget !== null);
  return [
    [words.limits, [...windows(entry.limits), ...models, ...counts].join(", ")],
    [words.budgets, budgets.map((one) => words.budget(allowed(one), one.unit, one.budget_duration)).join(", ")],
  ];
}

function windows(table) {
  return Object.entries(table).flatMap(([quantity, periods]) =>
    Object.entries(periods).map(([period, most]) => words.window(count(most), quantity, period)),
  );
}

/** What a budget allows; one that only warns says so. */
function allowed({ max_budget, soft_budget }) {
  return max_budget === null ? words.soft(count(soft_budget)) : count(max_budget);
}

function fact([label]) {
  const value = make("dd", {});
  const row = make("div", {}, make("dt", {}, label), value);
  row.update = ([, text]) => say(value, text);
  return row;
}

function change(entry) {
  const subject = make("code", {}, entry.subject);
  const what = words.changed(entry.actor || "–", words.action[entry.action] ?? entry.action, words.kind[entry.kind] ?? entry.kind);
  const details = Object.entries(entry.details).map(([name, value]) => `${name}: ${shown(value)}`);
  const element = make(
    "article",
    { className: "change" },
    make("p", {}, `${what} `, subject),
    make("p", { className: "note" }, at(entry.at)),
    details.length ? make("details", {}, make("summary", {}, words.details), make("pre", { tabIndex: 0 }, details.join("\n"))) : null,
  );
  element.update = () => {}; // changes never change
  return element;
}

/** A value, or the values before and after. */
function shown(value) {
  const text = (one) => (typeof one === "string" ? one : JSON.stringify(one));
  return Array.isArray(value) && value.length === 2 ? value.map(text).join(" → ") : text(value);
}

const at = (time) => moment(Date.parse(time) / 1000);
