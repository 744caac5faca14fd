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
        await calls.post("/conversations/import", slim(talk));
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

/** Return a conversation with only what `proxy/apis/chat_exports.py` reads. */
function slim(talk) {
  const { title, created, changed, settings, pinned, create_time, update_time, created_at, updated_at } = talk;
  const about = { title, created, changed, settings, pinned, create_time, update_time, created_at, updated_at };
  if (Array.isArray(talk.messages)) return { ...about, messages: talk.messages.map((node) => only(node, OURS)) };
  const each = (nodes, read) => Object.fromEntries(Object.entries(nodes).map(([id, node]) => [id, read(node)]));
  const messages = talk.chat?.history?.messages;
  if (messages) return { ...about, chat: { history: { messages: each(messages, (node) => only(node, OPEN_WEBUI)) } } };
  return talk.mapping ? { ...about, mapping: each(talk.mapping, chatgpt) } : talk;
}

const OURS = ["id", "parent_id", "role", "content", "reasoning", "created"];
const OPEN_WEBUI = ["parentId", "role", "content", "timestamp"];

function only(node, names) {
  return Object.fromEntries(names.filter((name) => node?.[name] !== undefined).map((name) => [name, node[name]]));
}

function chatgpt(node) {
  const { author, content, metadata, create_time } = node?.message ?? {};
  const hidden = "is_visually_hidden_from_conversation";
  const parts = content?.parts?.filter?.((part) => typeof part === "string");
  return {
    parent: node?.parent,
    message: { author: only(author, ["role"]), content: { parts, text: content?.text }, metadata: only(metadata, [hidden]), create_time },
  };
}
