// Keys, users, teams and changes as the lists show them.

import { words } from "./words.js";
import { keyed, make, say } from "./dom.js";
import { count, ago, exact, measure, moment } from "./form.js";

const FACTS = { keys: ofKey, users: ofUser, teams: ofTeam };
const RIGHTS = ["models", "allowed_routes", "allowed_tools", "allowed_knowledge_bases", "allowed_ips", "priority", "on_overflow", "capture", "group"];
const COUNTS = ["max_parallel_requests", "max_queued_requests", "max_prompt_tokens", "max_completion_tokens"];

/** Until when a key waits for its person, in seconds; undefined if it has a secret. */
export const invited = (entry) => entry.metadata?.slotproxy_invitation;

/** An element for an entry of the list `kind`; `actions(entry)` makes its buttons. `priced`: what
 * keys used costs something. */
export function card(kind, first, actions, priced) {
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
    state.dataset.state = { active: "up", invited: "busy" }[condition] ?? "down";
    say(state, words(`keys.condition.${condition}`));
    const rows = [...FACTS[kind](entry, priced), ...rights(entry), ...limits(entry)].filter(([, value]) => value);
    keyed(facts, rows, ([label]) => label, fact);
    replaceButtons(buttons, actions(entry));
  };
  return element;
}

function conditionOf(entry) {
  const until = invited(entry);
  if (until) return until > Date.now() / 1000 ? "invited" : "lapsed";
  if (entry.blocked) return "blocked";
  return entry.expires && Date.parse(entry.expires) <= Date.now() ? "expired" : "active";
}

/** Replace the buttons; the focus stays at its place. */
function replaceButtons(list, buttons) {
  const place = [...list.children].indexOf(document.activeElement);
  list.replaceChildren(...buttons.filter(Boolean));
  if (place >= 0) list.children[place]?.focus();
}

function ofKey(key, priced) {
  const { used } = key;
  const spent = used?.requests ? [words("keys.used_requests", { n: count(used.requests) }), words("common.tokens", { n: count(used.prompt_tokens + used.completion_tokens) })] : [];
  if (spent.length && priced) spent.push(words("keys.used_money", { n: measure(used.money) }));
  return [
    [words("keys.invited_until"), invited(key) && moment(invited(key))],
    [words("keys.last_use"), used && !invited(key) && (used.last ? ago(used.last, 3600) : words("keys.not_used"))],
    [words("keys.used"), spent.join(" · ")],
    [words("keys.user"), key.user_id],
    [words("keys.team"), key.team_id],
    [words("keys.expires"), key.expires && at(key.expires)],
    [words("keys.created"), words("keys.created_by", { time: at(key.created_at), key: key.created_by })],
    [words("keys.key_id"), key.key_alias ? key.key_id : ""],
    [words("keys.role"), key.admin ? words("keys.administrator") : ""],
  ];
}

function ofUser(user) {
  return [
    [words("keys.email"), user.user_email],
    [words("keys.created"), at(user.created_at)],
  ];
}

function ofTeam(team) {
  return [[words("keys.created"), at(team.created_at)]];
}

function rights(entry) {
  const named = RIGHTS.map((name) => [words(`keys.right.${name}`), [entry[name] ?? []].flat().join(", ")]);
  const access = [entry.read_only && words("keys.read_only"), entry.trusted_for_users && words("keys.trusted_flag")];
  return [...named, [words("keys.access"), access.filter(Boolean).join(", ")]];
}

function limits(entry) {
  const models = Object.entries(entry.model_limits).flatMap(([model, table]) =>
    windows(table).map((limit) => words("keys.of_model", { limit, model })),
  );
  const counts = COUNTS.filter((name) => entry[name] !== null).map((name) => words(`keys.count.${name}`, { n: count(entry[name]) }));
  const own = { ...entry, unit: "money" };
  const budgets = [own, ...entry.budget_limits].filter((budget) => budget.max_budget !== null || budget.soft_budget !== null);
  return [
    [words("common.limits"), [...windows(entry.limits), ...models, ...counts].join(", ")],
    [words("keys.budgets"), budgets.map((budget) => amount(allowed(budget), budget.unit, budget.budget_duration ?? "all")).join(", ")],
  ];
}

function windows(table) {
  return Object.entries(table).flatMap(([quantity, periods]) =>
    Object.entries(periods).map(([period, most]) => amount(count(most), quantity, period)),
  );
}

/** Format a limit or budget of a period; one of an unusual length shows none. */
function amount(most, unit, period) {
  const each = words(`keys.each.${period}`, {}, words("keys.each.all"));
  if (unit === "money") return words("keys.budget", { most, period: each });
  return words("keys.window", { most, unit: words(`keys.unit.${unit}`), period: each });
}

/** What a budget allows; one that only warns says so. */
function allowed({ max_budget, soft_budget }) {
  return max_budget === null ? words("keys.soft", { most: exact(soft_budget) }) : exact(max_budget);
}

function fact([label]) {
  const value = make("dd", {});
  const row = make("div", {}, make("dt", {}, label), value);
  row.update = ([, text]) => say(value, text);
  return row;
}

function change(entry) {
  const subject = make("code", {}, entry.subject);
  const what = words("keys.changed", { actor: entry.actor || "–", action: words(`keys.action.${entry.action}`, {}, entry.action), kind: words(`keys.kind.${entry.kind}`, {}, entry.kind) });
  const details = Object.entries(entry.details).map(([name, value]) => `${name}: ${shown(value)}`);
  const element = make(
    "article",
    { className: "change" },
    make("p", {}, `${what} `, subject),
    make("p", { className: "note" }, at(entry.at)),
    details.length ? make("details", {}, make("summary", {}, words("keys.details")), make("pre", { tabIndex: 0 }, details.join("\n"))) : null,
  );
  element.update = () => {}; // changes never change
  return element;
}

/** A value, or the values before and after. */
function shown(value) {
  const text = (item) => (typeof item === "string" ? item : JSON.stringify(item));
  return Array.isArray(value) && value.length === 2 ? value.map(text).join(" → ") : text(value);
}

const at = (time) => moment(Date.parse(time) / 1000);
