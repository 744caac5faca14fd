// Files dropped into a conversation: uploaded, read by the server, then used for answers.

import { keyed, make, say } from "../panels/dom.js";
import { percent } from "../panels/form.js";
import { words } from "../panels/words.js";

const LOOK = 700; // milliseconds between two polls while files are read
const OVER = new Set(["ready", "failed", "cancelled"]);

const where = (talk) => `/conversations/${talk.id}/files`;

export class Files {
  #sending = [];
  #read = [];
  #path = null;
  #looked = 0; // changes here make earlier requests outdated
  #next = 0; // timer of the next poll
  #taking = Promise.resolve();

  /** `images` takes the image files; `talk()` returns the conversation, created if there is
   * none; `used(yes)` is called when the first file can be asked about, or the last one is
   * removed. */
  constructor(page, calls, attempt, images, talk, used) {
    Object.assign(this, { calls, attempt, images, talk, used });
    this.list = page.querySelector('[data-part="files"]');
    this.option = page.querySelector('[name="base"] [value="files"]');
    const input = page.querySelector('[data-part="attach"]');
    input.addEventListener("change", () => {
      this.#take([...input.files]);
      input.value = "";
    });
    document.addEventListener("paste", (event) => {
      if (!event.clipboardData.files.length) return;
      event.preventDefault();
      this.#take([...event.clipboardData.files]);
    });
    for (const name of ["dragover", "dragleave", "drop"]) {
      document.addEventListener(name, (event) => {
        if (!event.dataTransfer?.types.includes("Files")) return;
        event.preventDefault();
        page.classList.toggle("over", name === "dragover");
        if (name === "drop") this.#take([...event.dataTransfer.files]);
      });
    }
  }

  /** Show a conversation's files; without a conversation, none. */
  async show(talk) {
    const path = talk && where(talk);
    if (path === this.#path) return;
    this.#path = path;
    this.#read = [];
    this.#draw();
    if (path) await this.#look();
    if (path === this.#path) this.used(this.#read.length > 0);
  }

  /** Resolves when all files are uploaded. */
  taken = () => this.#taking;

  /** Resolves when all files are read. */
  async ready() {
    await this.#taking;
    const path = this.#path;
    while (path === this.#path && this.#read.some((file) => !OVER.has(file.status))) {
      await new Promise((done) => setTimeout(done, LOOK / 2));
    }
  }

  /** Upload to the conversation that is open now, even if another is open when their turn comes. */
  #take(all) {
    const path = this.#path;
    this.#taking = this.#taking.then(() => this.#send(all, path));
  }

  async #send(all, into) {
    const files = await this.images.take(all);
    if (!files.length) return;
    let path = into;
    if (!path) {
      const talk = await this.talk();
      if (!talk) return;
      path = where(talk);
      if (!this.#path) await this.show(talk);
    }
    for (const file of files) {
      const row = { id: file.name, filename: file.name, status: "sending", done: 0, path };
      this.#sending.push(row);
      this.#draw();
      const sent = await this.attempt(() =>
        this.calls.send(`${path}?name=${encodeURIComponent(file.name)}`, file, (bytes, size) => {
          row.done = size ? bytes / size : 0;
          this.#draw();
        }),
      );
      this.#sending.splice(this.#sending.indexOf(row), 1);
      if (sent && path === this.#path) {
        this.#looked += 1;
        this.#read = [...this.#read.filter((other) => other.filename !== sent.filename), sent];
      }
      this.#draw();
      if (sent && path === this.#path) this.used(true);
    }
    if (path === this.#path) await this.#look();
  }

  /** Poll while files are being read, even if a request fails. */
  async #look() {
    clearTimeout(this.#next);
    const path = this.#path;
    const mine = ++this.#looked;
    const files = await this.attempt(() => this.calls.get(path));
    if (path !== this.#path) return;
    if (files && mine === this.#looked) this.#read = files;
    this.#draw();
    clearTimeout(this.#next);
    if (this.#read.some((file) => !OVER.has(file.status))) {
      this.#next = setTimeout(() => path === this.#path && this.#look(), LOOK);
    }
  }

  #draw() {
    const all = [...this.#read, ...this.#sending.filter((file) => file.path === this.#path)];
    this.option.hidden = this.option.disabled = !all.length;
    keyed(this.list, all, (file) => file.id, () => this.#chip());
  }

  #chip() {
    const name = make("span", { className: "file-name" });
    const state = make("span", { className: "note", role: "status" });
    const away = make("button", { type: "button", className: "quiet" }, "×");
    const chip = make("li", { className: "file" }, name, state, away);
    let shown;
    away.addEventListener("click", async () => {
      const path = this.#path;
      away.disabled = true;
      const done = await this.attempt(async () => (await this.calls.remove(`${path}/${shown.id}`), true));
      away.disabled = false;
      if (!done || path !== this.#path) return;
      this.#looked += 1;
      this.#read = this.#read.filter((file) => file.id !== shown.id);
      this.#draw();
      if (!this.#read.length) this.used(false);
    });
    chip.update = (file) => {
      shown = file;
      say(name, file.filename);
      const text = { ready: "", failed: file.error || words("chat.status.failed"), sending: percent(file.done) }[file.status];
      say(state, text ?? words("chat.reading"));
      chip.dataset.status = file.status;
      away.hidden = file.status === "sending";
      away.ariaLabel = words("common.remove_name", { name: file.filename });
    };
    return chip;
  }
}
