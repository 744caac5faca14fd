// The links by which a conversation is shared: made, copied and revoked.

import { copyText, icon, make, say } from "../panels/dom.js";
import { moment } from "../panels/form.js";
import { words } from "../panels/words.js";

/** `shown()` returns the open conversation and the end of its open branch: `{id, leaf}`. */
export function share(button, calls, attempt, shown) {
  button?.addEventListener("click", async () => {
    const { id, leaf } = shown();
    const links = await attempt(() => calls.get(`/conversations/${id}/links`));
    if (links) open(calls, id, leaf, links);
  });
}

function open(calls, id, leaf, links) {
  const note = make("p", { className: "note", role: "status" });
  const list = make("ul", {}, links.map((link) => row(link)));
  const create = make("button", { type: "button", disabled: !leaf, onclick: () => work(add) }, words("share.create"));
  const close = make("button", { type: "button", className: "quiet", "aria-label": words("common.close"), onclick: () => dialog.close() }, icon("close"));
  const title = words("share.title");
  const dialog = make(
    "dialog",
    { className: "passage links", "aria-label": title, onclose: () => dialog.remove() },
    make("header", {}, make("h2", {}, title), close),
    make("p", { className: "note" }, words("share.note")),
    list,
    create,
    note,
  );

  async function work(job) {
    try {
      await job();
    } catch (error) {
      if (error.status === undefined) throw error;
      say(note, error.message || words("common.no_connection"));
    }
  }

  async function add() {
    const link = await calls.post(`/conversations/${id}/links`, { leaf });
    list.prepend(row(link));
    say(note, (await copyText(address(link))) ? words("share.copied") : "");
  }

  function row(link) {
    const href = address(link);
    const copy = make("button", { type: "button", className: "quiet" }, words("common.copy"));
    copy.addEventListener("click", async () => say(note, words((await copyText(href)) ? "share.copied" : "chat.not_copied")));
    const revoke = make("button", { type: "button", className: "quiet danger" }, words("share.revoke"));
    revoke.addEventListener("click", () =>
      work(async () => {
        await calls.remove(`/links/${link.id}`);
        item.remove();
        say(note, words("share.revoked"));
      }),
    );
    const visit = make("a", { href, target: "_blank", rel: "noopener" }, moment(link.created));
    const item = make("li", {}, visit, copy, revoke);
    return item;
  }

  document.getElementById("chat").append(dialog);
  dialog.showModal();
}

const address = ({ id }) => new URL(`${document.body.dataset.home}shared/${id}`, location.href).href;
