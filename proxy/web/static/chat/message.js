// One message as an element, and its answer while it is written.

import { copyText, icon, make, say } from "../panels/dom.js";
import { count, measure, span } from "../panels/form.js";
import { place } from "../panels/places.js";
import { fault } from "./faults.js";
import { Growing, render } from "./markdown.js";
import { morph } from "./morph.js";
import { seconds, Waiting } from "./waiting.js";
import { words } from "../panels/words.js";

const CUT = ["stopped", "interrupted", "failed"]; // statuses of answers that can be continued

/** `acts`: again(message), resume(message), edit(message, text), image(message, n) returns an address,
 * lonely(message) tells whether a question has no answer, answer(message) asks it again,
 * remove(message), hurry(message), turn(id), read(element) tells whether the user scrolled
 * up to it, model(name) returns the state of a model, look() reads it anew. */
export class Message {
  constructor(message, siblings, acts) {
    this.message = message;
    this.acts = acts;
    this.user = message.role === "user";
    this.text = make("div", { className: this.user ? "said" : "said markdown" });
    this.aside = make("div", { className: "aside" });
    this.notice = make("div", { className: "notice", hidden: true });
    this.foot = make("div", { className: "foot" });
    this.unfolded = new Set(); // names of folds that were unfolded early
    this.element = make(
      "article",
      { id: message.id, className: `message ${message.role}`, "aria-label": this.user ? words("chat.you") : words("chat.answer") },
      this.aside,
      this.text,
      this.notice,
      this.foot,
    );
    this.element.dataset.status = message.status;
    if (this.user) {
      say(this.text, message.content);
      this.#images(message.extra.images ?? []);
    } else {
      render(this.text, message.content);
      this.#asides(message.extra, message.reasoning);
    }
    this.#actions(siblings);
    if (this.user || message.status === "growing") return;
    this.#warn();
    this.#numbers();
  }

  /** Follow the answer from its start. `over()` is called at the end, `lost(yes)` when the
   * connection is lost or restored; the browser then requests what it missed. */
  follow(address, over, lost) {
    let extra = {};
    let reasoning = "";
    let begun = false; // whether its text has begun
    this.text.replaceChildren();
    const growing = (this.growing = new Growing(this.text));
    const { model } = this.message.extra;
    const wait = new Waiting(model, () => this.acts.model(model), () => this.acts.look(), () => this.acts.hurry(this.message));
    this.text.append(wait.element);
    const source = new EventSource(address);
    source.addEventListener("message", (event) => {
      const now = JSON.parse(event.data);
      if (now.type === "text") {
        if (!begun) this.#foldUp();
        begun = true;
        wait.end();
        growing.add(now.delta);
      } else if (now.type === "place") {
        wait.place = now.place;
        wait.show();
      } else if (now.type === "over") {
        close();
        over();
      } else {
        if (now.type === "reasoning") {
          reasoning += now.delta;
          wait.think();
        } else if (now.type === "extra") extra = now.extra;
        this.#asides(extra, reasoning, !begun);
      }
    });
    source.addEventListener("open", () => lost(false));
    source.addEventListener("error", () => {
      // A refusal: of an answer that is deleted, or without a sign-in.
      if (source.readyState === EventSource.CLOSED) over();
      else lost(true);
    });
    const close = () => {
      wait.end();
      source.close();
    };
    return { close };
  }

  /** Show the answer as it is stored: it is over. What has been shown stays in its place. */
  end(message, siblings) {
    this.message = message;
    this.element.dataset.status = message.status;
    this.growing.end(message.content);
    this.#asides(message.extra, message.reasoning);
    this.foot.replaceChildren();
    this.#actions(siblings);
    this.#warn();
    this.#numbers();
  }

  /** Fold what was unfolded early, unless the user is reading it. */
  #foldUp() {
    for (const fold of this.aside.querySelectorAll("[data-unfolded]")) if (!this.acts.read(fold)) fold.open = false;
  }

  /** Show reasoning, steps and sources. Reasoning and steps are unfolded `early`, until the text of
   * the answer begins; the user's choice beats that. */
  #asides(extra, reasoning, early = false) {
    const opened = new Map([...this.aside.querySelectorAll("details")].map((details) => [details.dataset.name, details.open]));
    const fold = (name, title, ...inner) => {
      const unfolded = early && name !== "sources";
      if (unfolded) this.unfolded.add(name);
      const details = make("details", { open: opened.get(name) ?? unfolded }, make("summary", {}, title), ...inner);
      details.dataset.name = name;
      if (this.unfolded.has(name)) details.dataset.unfolded = "";
      return details;
    };
    const parts = [];
    if (reasoning) parts.push(fold("reasoning", thought(extra), make("p", { className: "text" }, reasoning)));
    if (extra.steps?.length) {
      const items = extra.steps.map((step) =>
        make(
          "li",
          {},
          make("strong", {}, step.kind === "tool" ? words("chat.tool", { name: step.name }) : words(`chat.step.${step.kind}`)),
          make("pre", { tabIndex: 0 }, step.kind === "tool" ? step.arguments : step.text),
        ),
      );
      parts.push(fold("steps", words("chat.steps", { n: items.length }), make("ol", { className: "steps" }, items)));
    }
    if (extra.sources?.length) {
      const items = extra.sources.map((source) =>
        make(
          "li",
          { className: "source" },
          make("p", {}, make("span", { className: "badge" }, source.number), link(source), source.place ? ` · ${place(source.place)}` : ""),
          make("blockquote", {}, source.text),
          make("button", { type: "button", className: "quiet", onclick: () => passage(source) }, words("chat.passage")),
        ),
      );
      parts.push(fold("sources", words("chat.sources", { n: items.length }), make("ol", { className: "sources" }, items)));
    } else if (extra.asked) {
      parts.push(make("p", { className: "note" }, words("chat.no_sources")));
    }
    morph(this.aside, make("div", {}, parts));
  }

  #images(images) {
    const shown = images.map(({ name }, n) => {
      const src = this.acts.image(this.message, n);
      return make("a", { href: src, target: "_blank" }, make("img", { src, alt: name, loading: "lazy" }));
    });
    if (shown.length) this.aside.append(make("div", { className: "images" }, shown));
  }

  #actions(siblings) {
    const button = (sign, label, act) =>
      make("button", { type: "button", className: "quiet", title: label, "aria-label": label, onclick: act }, icon(sign));
    const { message, acts } = this;
    if (siblings.length > 1) {
      const index = siblings.indexOf(message.id);
      const step = (by, label, sign) =>
        make("button", {
          type: "button",
          className: "quiet",
          "aria-label": label,
          disabled: !siblings[index + by],
          onclick: () => acts.turn(siblings[index + by], this.element),
        }, sign);
      this.foot.append(
        step(-1, words("chat.before"), "‹"),
        make("span", { className: "note" }, words("chat.branch", { n: index + 1, all: siblings.length })),
        step(1, words("chat.after"), "›"),
      );
    }
    const copy = button("copy", words("common.copy"), async () => {
      const done = await copyText(message.content);
      copy.replaceChildren(icon(done ? "check" : "close"));
      copy.title = words(done ? "chat.copied" : "chat.not_copied");
      setTimeout(() => {
        copy.replaceChildren(icon("copy"));
        copy.title = words("common.copy");
      }, 1500);
    });
    const edit = button("pencil", words("common.edit"), () => this.#edit());
    edit.dataset.act = "edit";
    const away = button("trash", words("talks.delete_message"), () => acts.remove(message));
    if (this.user && acts.lonely(message)) this.foot.append(this.#large("again", "chat.answer_again", acts.answer));
    if (this.user) this.foot.append(edit, copy, away);
    else if (message.status !== "growing") {
      const failed = message.status === "failed";
      const raw = button("code", words("chat.raw"), () => {
        const on = raw.ariaPressed !== "true";
        raw.ariaPressed = String(on);
        if (on) this.text.replaceChildren(make("pre", { className: "raw", tabIndex: 0 }, message.content));
        else render(this.text, message.content);
      });
      if (resumable(message) && !isCut(message)) this.foot.append(this.#large("resume", "chat.resume", acts.resume));
      const again = button("again", words(failed ? "chat.try_again" : "chat.again"), () => acts.again(message));
      if (failed) again.append(words("chat.try_again"));
      again.classList.toggle("resume", failed);
      this.foot.append(again);
      if (message.content) this.foot.append(copy, raw);
      this.foot.append(away);
    }
  }

  /** A button with a sign and its text, for what the user probably does next. */
  #large(sign, text, act) {
    const button = make("button", { type: "button", className: "quiet resume", onclick: () => act(this.message) });
    button.append(icon(sign), words(text));
    return button;
  }

  #edit() {
    const begun = this.text.querySelector("textarea");
    if (begun) return begun.focus();
    const area = make("textarea", { value: this.message.content, rows: 2, "aria-label": words("common.edit") });
    const cancel = () => {
      this.element.classList.remove("editing");
      this.text.replaceChildren(this.message.content);
      this.foot.querySelector("[data-act='edit']").focus();
    };
    const send = () => area.value.trim() && this.acts.edit(this.message, area.value);
    area.addEventListener("keydown", (event) => {
      if (event.isComposing || !["Escape", "Enter"].includes(event.key) || event.shiftKey) return;
      event.preventDefault(); // Escape would stop an answer
      event.stopPropagation();
      if (event.key === "Escape") cancel();
      else send();
    });
    this.element.classList.add("editing");
    this.text.replaceChildren(
      area,
      make(
        "div",
        { className: "actions" },
        make("button", { type: "button", className: "quiet", onclick: cancel }, words("common.cancel")),
        make("button", { type: "button", onclick: send }, words("chat.send")),
      ),
    );
    area.focus();
  }

  /** What went wrong with the answer, or where it was cut off, and what the user can do. */
  #warn() {
    const { message } = this;
    const { extra, status } = message;
    const failed = status === "failed";
    this.notice.hidden = !failed && !isCut(message);
    if (failed) this.notice.replaceChildren(fault(extra.code, extra.error, extra.details));
    else if (isCut(message)) {
      const n = count(extra.usage?.completion ?? 0);
      const text = make("p", { className: "note" }, words(resumable(message) ? "chat.cut" : "chat.cut_for_good", { n }));
      this.notice.replaceChildren(text, ...(resumable(message) ? [this.#large("resume", "chat.resume", this.acts.resume)] : []));
    }
  }

  #numbers() {
    const { extra, status } = this.message;
    const usage = extra.usage;
    const note = (className, ...texts) => {
      const text = texts.filter(Boolean).join(" · ");
      if (text) this.foot.append(make("span", { className: `note ${className}` }, text));
    };
    const model = extra.model ? (this.acts.model(extra.model)?.title ?? extra.model) : "";
    note("by", model, status === "failed" ? "" : words(`chat.status.${status}`, {}, ""));
    note(
      status === "done" ? "timings" : "",
      extra.speed ? words("chat.speed", { n: measure(extra.speed) }) : "",
      extra.first_token ? words("chat.first", { span: span(extra.first_token) }) : "",
      usage ? words("chat.tokens", { n: count(usage.completion) }) : "",
      usage?.cached ? words("chat.cached", { n: count(usage.cached) }) : "",
    );
  }
}

const thought = ({ thought: n }) => [words("chat.thinking"), n ? seconds(Math.max(1, n)) : ""].filter(Boolean).join(" · ");

/** Whether the answer ended at its maximum length. */
const isCut = ({ status, extra }) => status === "done" && extra.finish_reason === "length";

/** Whether the answer was cut off and the model can go on with it: it has no sources or steps. */
function resumable({ status, content, extra }) {
  const plain = (extra.kind ?? "chat") === "chat";
  return plain && content && (CUT.includes(status) || extra.finish_reason === "length");
}

/** Show a whole passage of a source. */
function passage(source) {
  const close = make("button", { type: "button", className: "quiet", "aria-label": words("common.close"), onclick: () => dialog.close() }, icon("close"));
  const title = make("h2", {}, make("span", { className: "badge" }, source.number), link(source));
  const dialog = make(
    "dialog",
    { className: "passage", "aria-label": source.title, onclose: () => dialog.remove() },
    make("header", {}, title, close),
    source.place ? make("p", { className: "note" }, place(source.place)) : null,
    make("p", { className: "text", tabIndex: 0 }, source.text),
  );
  document.getElementById("chat").append(dialog);
  dialog.showModal();
}

/** A search result links to its page, if that is http or https. */
function link({ title, url }) {
  if (!/^https?:\/\//.test(url)) return make("strong", {}, title);
  return make("a", { href: url, target: "_blank", rel: "noopener noreferrer nofollow" }, title);
}
