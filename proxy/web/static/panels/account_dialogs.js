// The dialogs of the page of keys, users and teams: forms for entries, new secrets.

import { words } from "./words.js";
import { copyText, isLocal, make, say } from "./dom.js";
import { addRow, fill, read } from "./fields.js";
import { moment } from "./form.js";

const PATHS = { keys: "/key", users: "/user", teams: "/team" };
const IDS = { keys: "token", users: "user_id", teams: "team_id" };
const MOST_KNOWN = 100; // users, or teams, of a page
const MOST_PAGES = 10; // that a field offers

export class Dialogs {
  #page;
  #calls;
  #changed;
  #submit = null; // what the open form does

  /** `changed()` is called after every change. */
  constructor(page, calls, changed) {
    this.#page = page;
    this.#calls = calls;
    this.#changed = changed;
    for (const dialog of page.querySelectorAll("dialog")) {
      dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
      for (const add of dialog.querySelectorAll("[data-add]")) {
        add.addEventListener("click", () => {
          const list = add.closest("fieldset").querySelector("[data-rows]");
          addRow(list).querySelector("[data-name]").focus();
        });
      }
      dialog.querySelector("form")?.addEventListener("submit", (event) => this.#send(event, dialog));
    }
    const user = this.#form("keys").querySelector("[name='user_id']");
    const other = this.#part("new-user").querySelector("input");
    user.addEventListener("change", () => {
      this.#askNewUser(user.value === "+");
      if (user.value === "+") other.focus();
    });
    // A person who is invited becomes a user of this name, unless something else is chosen.
    const name = this.#form("keys").querySelector("[name='key_alias']");
    let copied = "";
    name.addEventListener("input", () => {
      if (this.#part("invitation").hidden || !["", copied].includes(other.value)) return;
      other.value = copied = name.value;
    });
    // Nobody reads a key that is not on the screen any more.
    this.#part("made").addEventListener("close", () => (this.#part("secret").value = ""));
    this.#part("copy").addEventListener("click", () => this.#copy());
  }

  /** Edit an entry of the list `kind`, or make one if `entry` is null. */
  async edit(kind, entry, name) {
    const path = entry ? "update" : { keys: "generate", users: "new", teams: "new" }[kind];
    await this.#edit(kind, entry, entry ? words("keys.editing", { name }) : words(`keys.new.${kind}`), path);
  }

  /** Make a key for a new person, who gets it by a link. */
  invite = () => this.#edit("keys", null, words("keys.invite_title"), "invite");

  async #edit(kind, entry, title, path) {
    const dialog = this.#form(kind);
    say(dialog.querySelector("h2"), title);
    for (const part of dialog.querySelectorAll("[data-new]")) part.hidden = Boolean(entry);
    for (const part of dialog.querySelectorAll("[data-edit]")) part.hidden = !entry;
    const form = dialog.querySelector("form");
    if (kind === "keys") {
      await this.#offer(form, entry ?? {});
      say(form.querySelector("button:not([type])"), words(path === "invite" ? "keys.make_link" : "common.save"));
      this.#part("invitation").hidden = this.#part("invitation-note").hidden = path !== "invite";
      form.elements.key_alias.required = path === "invite"; // it greets the person
      const expires = entry?.expires ? moment(Date.parse(entry.expires) / 1000) : words("keys.never");
      say(this.#part("kept"), expires);
    }
    fill(form, entry ?? {});
    this.#askNewUser(false);
    const before = read(form);
    if (path === "invite") {
      form.elements.user_id.value = "+";
      this.#askNewUser(true);
    }
    this.#open(dialog, async (now) => {
      const fields = differing(before, now);
      if (fields.user_id === "+") fields.user_id = fields.new_user;
      delete fields.new_user;
      if (path === "invite") fields.invitation_duration = now.invitation_duration;
      if (entry) fields[kind === "keys" ? "key" : IDS[kind]] = entry[IDS[kind]];
      else if (kind === "users") fields.auto_create_key = false;
      return this.#calls.post(`${PATHS[kind]}/${path}`, fields);
    });
  }

  #askNewUser(asks) {
    const part = this.#part("new-user");
    part.hidden = !asks;
    part.querySelector("input").required = asks;
  }

  /** Give a key a new secret. */
  renew(key, name) {
    const dialog = this.#form("secret");
    say(dialog.querySelector("h2"), words("keys.renewing", { name }));
    dialog.querySelector("form").reset();
    this.#open(dialog, (fields) => this.#calls.post("/key/regenerate", { key: key.token, ...fields }));
  }

  #open(dialog, submit) {
    this.#submit = submit;
    say(dialog.querySelector(".error"), "");
    dialog.showModal();
  }

  async #send(event, dialog) {
    event.preventDefault();
    const fields = read(event.target);
    const button = event.target.querySelector("button:not([type])");
    button.disabled = true;
    await this.#attempt(dialog, () => this.#submit(fields));
    button.disabled = false;
  }

  /** Run `work` and show its error. Closes the dialog. */
  async #attempt(dialog, work) {
    say(dialog.querySelector(".error"), "");
    try {
      const answer = await work();
      dialog.close();
      if (answer.invitation || answer.key?.startsWith("sk-")) this.#show(answer);
      this.#changed();
    } catch (error) {
      if (error.status === undefined) throw error;
      const reason = error.message || (error.status ? words("common.failed_request") : words("common.no_connection"));
      say(dialog.querySelector(".error"), reason);
    }
  }

  /** Show a key, or the link of an invitation, which nobody can read again. */
  #show({ key, invitation, until }) {
    const link = invitation && new URL(`${document.body.dataset.home}invitation#${invitation}`, location.href).href;
    say(this.#part("made").querySelector("h2"), words(link ? "keys.copy_the_link_now" : "keys.copy_the_key_now"));
    say(this.#part("made-note"), link ? words("keys.link_shown_once", { until: moment(Date.parse(until) / 1000) }) : words("keys.shown_once"));
    this.#part("made-local").hidden = !link || !isLocal();
    say(this.#part("made-name"), words(link ? "keys.link" : "common.api_key"));
    this.#part("secret").value = link ?? key;
    say(this.#part("copied"), "");
    this.#part("made").showModal();
    this.#part("secret").select();
  }

  async #copy() {
    const field = this.#part("secret");
    const copied = await copyText(field.value);
    if (!copied) field.select();
    say(this.#part("copied"), copied ? words("keys.copied") : words("keys.not_copied"));
  }

  /** Offer the users and teams in the fields of a form, and those that an entry has. */
  async #offer(form, entry) {
    const offer = async (field) => {
      const kind = field.dataset.offer;
      const own = entry[field.name];
      const entries = await this.#entries(kind);
      const options = entries.map((other) => option(other[IDS[kind]], other.user_alias || other.team_alias));
      if (own && !entries.some((other) => other[IDS[kind]] === own)) options.push(option(own));
      for (const before of field.querySelectorAll("[data-known]")) before.remove();
      field.append(...options);
    };
    await Promise.all([...form.querySelectorAll("[data-offer]")].map(offer));
  }

  /** The first users, or teams, by their ids; none if they cannot be read. */
  async #entries(kind) {
    const entries = [];
    try {
      for (let page = 1, pages = 1; page <= Math.min(pages, MOST_PAGES); page += 1) {
        const answer = await this.#calls.get(`${PATHS[kind]}/list?page=${page}&page_size=${MOST_KNOWN}`);
        entries.push(...answer[kind]);
        pages = answer.total_pages;
      }
    } catch (error) {
      if (error.status === undefined) throw error;
    }
    return entries;
  }

  #form = (kind) => this.#page.querySelector(`dialog[data-form="${kind}"]`);
  #part = (name) => this.#page.querySelector(`[data-part="${name}"]`);
}

/** An option of a list that is read again each time. */
function option(value, name) {
  const element = make("option", { value }, name && name !== value ? `${name} (${value})` : value);
  element.dataset.known = "";
  return element;
}

/** The fields that have changed: others may have been changed by another administrator since. */
function differing(before, now) {
  const changed = Object.entries(now).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name]));
  return Object.fromEntries(changed);
}
