// What was captured of a request: both sides and the prompt, exports, and asking again.

import { copyText, make, say } from "./dom.js";
import { count } from "./form.js";
import { words } from "./words.js";

const KEY = "YOUR_KEY"; // in a curl command
const SENT_ON = /^(accept|anthropic-|openai-|x-slotproxy-)/; // headers in a curl command
// What stands for a file, and for a key, in a body.
const CUT = /\[[\w.+-]+(\/[\w.+-]+)?, \d+ bytes, sha256 [0-9a-f]{16}\]|\[key\]/;

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** JSON with line breaks; other texts as they are. */
function pretty(text) {
  const value = parsed(text);
  return value === undefined ? text : JSON.stringify(value, null, 2);
}

/** The text in a content of any API: a text, or a list of parts. */
function textOf(content) {
  if (typeof content === "string") return content;
  return Array.isArray(content) ? content.map((part) => textOf(part?.text ?? part?.content ?? "")).join("") : "";
}

/** The text in an answer, or in an event of one, of any API. */
function said(event) {
  if (event?.type?.startsWith?.("response.")) return event.type.endsWith("output_text.delta") ? textOf(event.delta) : "";
  if (Array.isArray(event?.choices)) return event.choices.map((choice) => textOf(choice.delta?.content ?? choice.message?.content ?? choice.text)).join("");
  const { delta, message, response, content, output, error } = event ?? {};
  return textOf(delta?.text) || textOf(message?.content) || textOf(response) || textOf(content) || textOf(output) || textOf(error?.message ?? error);
}

/** The text of an answer, whole or streamed; "" if it has none, as one that calls tools. */
function answerOf(raw) {
  const whole = parsed(raw);
  if (whole !== undefined) return said(whole);
  return raw.split("\n").map((line) => said(parsed(line.replace(/^data:/, "")))).join("");
}

/** The last prompt that a backend got as text; ids of tokens are written as <5>. */
function promptOf(capture) {
  const prompts = capture.calls.map((call) => parsed(call.sent.text)).map((body) => body?.prompt ?? body?.input_prefix);
  const prompt = prompts.findLast(Boolean) ?? "";
  return typeof prompt === "string" ? prompt : prompt.map((part) => (typeof part === "string" ? part : `<${part}>`)).join("");
}

/** Controls of the direction of a text as escapes, so that it is read in the order in which it was sent. */
function inOrder(text) {
  return text.replace(/[\u202a-\u202e\u2066-\u2069]/g, (mark) => `\\u${mark.charCodeAt(0).toString(16)}`);
}

/** The parts of a capture, as [title, text, missing bytes]. */
function parts(capture) {
  const { sent, received, calls } = capture;
  // An answer in the background, as on the page of chats, is not sent to the client in one piece.
  const answer = answerOf(received.text || (calls.at(-1)?.received.text ?? ""));
  const prompt = promptOf(capture);
  return [
    [words("captures.sent"), pretty(sent.text), sent.missing],
    ...(answer && answer !== received.text ? [[words("captures.text"), answer, 0]] : []),
    ...(received.text ? [[words("captures.received"), pretty(received.text), received.missing]] : []),
    ...(calls.length ? [[words("captures.prompt"), prompt || words("captures.no_prompt"), 0]] : []),
    ...calls.flatMap((call) => [
      [words("captures.call_sent", { request: call.request }), pretty(call.sent.text), call.sent.missing],
      [words("captures.call_received", { status: call.status || words("captures.no_answer") }), pretty(call.received.text), call.received.missing],
    ]),
  ].map(([title, text, missing]) => [inOrder(title), inOrder(text), missing]);
}

function fold([title, text, missing]) {
  const pre = make("pre", { tabIndex: 0, "aria-label": title }, text || words("captures.empty"));
  const note = missing ? make("p", { className: "note" }, words("captures.missing", { n: count(missing) })) : null;
  return make("details", {}, make("summary", {}, title), pre, note);
}

function markdown(capture) {
  const lines = [`# ${capture.request}`, "", `\`${capture.id}\` · ${new Date(1000 * capture.ended).toISOString()} · ${capture.status}`];
  for (const [title, text, missing] of parts(capture)) {
    const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([run]) => run.length));
    const fence = "`".repeat(longest + 1);
    lines.push("", `## ${title}`, "", fence, text, fence);
    if (missing) lines.push("", words("captures.missing", { n: count(missing) }));
  }
  return `${lines.join("\n")}\n`;
}

function curl(capture) {
  const [method, path] = capture.request.split(" ");
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const headers = Object.entries(capture.headers).filter(([name]) => name === "content-type" || SENT_ON.test(name));
  const all = [["authorization", `Bearer ${KEY}`], ...headers].map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`);
  return [`curl -X ${method} ${quoted(location.origin + path)}`, ...all, `--data-raw ${quoted(capture.sent.text)}`].join(" \\\n  ");
}

function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Asks the captured body again, of this or another model, and shows both answers. */
function again(capture, { calls, models }) {
  const body = parsed(capture.sent.text);
  const path = capture.request.split(" ")[1];
  if (path.includes("/pages/") || !body) return [];
  if (capture.sent.missing || CUT.test(capture.sent.text)) return [make("p", { className: "note" }, words("captures.incomplete"))];
  if (!models.length) return [make("p", { className: "note" }, words("captures.no_model"))];
  const options = models.map((name) => make("option", { value: name, selected: name === body.model }, name));
  const model = make("select", { "aria-label": words("common.model") }, options);
  const ask = make("button", {}, words("captures.again"));
  const stop = make("button", { type: "button", className: "quiet", hidden: true }, words("captures.stop"));
  const form = make("form", { className: "choices" }, model, ask, stop);
  const now = make("pre", { tabIndex: 0 });
  const title = make("h4");
  const column = (head, text) => make("section", {}, head, text);
  const before = make("pre", { tabIndex: 0, "aria-label": words("captures.then") }, answerOf(capture.received.text) || pretty(capture.received.text));
  const both = make("div", { className: "beside", hidden: true }, column(make("h4", {}, [words("captures.then"), body.model].filter(Boolean).join(" · ")), before), column(title, now));
  let ending;
  stop.addEventListener("click", () => ending.abort());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    ending = new AbortController();
    ask.disabled = true;
    both.hidden = false;
    stop.hidden = false;
    say(title, model.value);
    now.setAttribute("aria-label", model.value);
    say(now, words("captures.asking"));
    try {
      const answer = await fetch(`${calls.root}/again?${new URLSearchParams({ route: path })}`, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-CSRF-Token": calls.token },
        body: JSON.stringify({ ...body, model: model.value, stream: false }),
        signal: ending.signal,
      });
      const text = await answer.text();
      say(now, answerOf(text) || pretty(text));
    } catch {
      say(now, ending.signal.aborted ? "" : words("common.no_connection"));
    }
    ask.disabled = false;
    stop.hidden = true;
  });
  return [form, both];
}

/** Everything to show of a capture. `context` has the page's `calls` and `models`; `removed` is called
 * when it was deleted. */
export function captureView(capture, context, removed) {
  const note = make("p", { className: "note", role: "status" });
  const act = (name, onclick, className = "quiet") => make("button", { type: "button", className, onclick }, words(`captures.act.${name}`));
  const buttons = [
    act("markdown", () => download(`request-${capture.id.slice(0, 8)}.md`, "text/markdown", markdown(capture))),
    act("json", () => download(`request-${capture.id.slice(0, 8)}.json`, "application/json", JSON.stringify(capture, null, 2))),
    act("curl", async () => say(note, words((await copyText(curl(capture))) ? "captures.copied" : "captures.not_copied"))),
    act("remove", async () => {
      await context.calls.remove(`/${encodeURIComponent(capture.id)}/capture`);
      removed();
    }, "quiet danger"),
  ];
  const more = capture.more_calls ? make("p", { className: "note" }, words("captures.more_calls", { n: capture.more_calls })) : "";
  return [...parts(capture).map(fold), more, make("div", { className: "actions" }, buttons), note, ...again(capture, context)];
}
