// Imports conversations from a file: an export of these pages, of Open WebUI or of ChatGPT.

import { say } from "../panels/dom.js";
import { words } from "../panels/words.js";

const SHOWN = 5; // conversations that were not imported
const OF_ONE = [400, 413]; // statuses that say nothing about the next conversation

/** The conversations are sent one by one and without images, which are not imported, so a file
 * may be larger than a request. Those that the server refuses are skipped and listed. `over()` is called at the end. */
export function archive(at, calls, attempt, tell, over) {
  const menu = at("list-menu");
  document.addEventListener("click", ({ target }) => {
    if (!menu.contains(target) || target.closest("button")) menu.open = false;
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.firstElementChild.focus();
    event.stopPropagation();
    event.preventDefault();
  });
  at("import").addEventListener("change", async () => {
    const [file] = at("import").files;
    at("import").value = "";
    if (!file) return;
    const all = await parsed(file);
    if (!all) return tell(words("chat.no_export", { name: file.name }));
    const skipped = [];
    const send = async (talk) => {
      try {
        await calls.post("/conversations/import", ours(talk));
      } catch (error) {
        if (!OF_ONE.includes(error.status)) throw error;
        skipped.push(words("chat.quoted", { title: String(talk.title ?? "").slice(0, 60), why: error.message }));
      }
      return true;
    };
    let sent = 0;
    for (const talk of all) {
      say(at("imported"), words("chat.importing", { n: sent + 1, all: all.length }));
      if (!(await attempt(() => send(talk)))) break;
      sent += 1;
    }
    say(at("imported"), words("chat.imported", { n: sent - skipped.length }));
    const more = skipped.length > SHOWN ? " …" : "";
    if (skipped.length) tell(words("chat.not_imported", { n: skipped.length, list: skipped.slice(0, SHOWN).join(" ") + more }));
    over();
  });
}

async function parsed(file) {
  try {
    const data = JSON.parse(await file.text());
    const all = Array.isArray(data) ? data : [data];
    return all.every((talk) => typeof talk === "object" && talk) ? all : null;
  } catch {
    return null;
  }
}

/** Return a conversation in the form of our own exports. */
function ours({ title, chat, mapping, messages, ...about }) {
  const made = (created, changed, nodes, settings) => ({
    title: text(title),
    created: time(created),
    changed: time(changed),
    settings,
    messages: nodes?.filter((message) => typeof message.id === "string"),
  });
  if (mapping) return made(about.create_time, about.update_time, Object.entries(mapping).map(chatgpt));
  const webui = chat?.history?.messages;
  if (webui) return made(about.created_at, about.updated_at, Object.entries(webui).map(openWebui), { pinned: about.pinned === true });
  return made(about.created, about.changed, messages?.map?.(own), about.settings);
}

const text = (value) => (typeof value === "string" ? value : undefined);
const time = (value) => (value > 0 && value < 1e11 ? value : undefined);

function node(id, parent, { role, content, reasoning }, created) {
  return { id, parent_id: text(parent), role: text(role), content: text(content), reasoning: text(reasoning), created: time(created) };
}

const own = (message) => node(message?.id, message?.parent_id, message ?? {}, message?.created);
const openWebui = ([id, message]) => node(id, message?.parentId, message ?? {}, message?.timestamp);

function chatgpt([id, entry]) {
  const { author, content, metadata, create_time } = entry?.message ?? {};
  const parts = content?.parts?.filter?.((part) => typeof part === "string");
  const role = metadata?.is_visually_hidden_from_conversation ? "" : author?.role;
  return node(id, entry?.parent, { role, content: parts?.join("\n\n") ?? content?.text }, create_time);
}
