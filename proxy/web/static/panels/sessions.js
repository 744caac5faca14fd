// The page of sign-in sessions: which browsers are signed in, and a button to end each.

import { Calls } from "./calls.js";
import { keyed, make, say } from "./dom.js";
import { moment } from "./form.js";

const WORDS = {
  en: {
    unknown: "Unknown browser",
    current: "this browser",
    since: (time, address) => `since ${time}, from ${address}`,
    end: "End",
    ending: (agent) => `End the session of ${agent}`,
    failed_request: "Something went wrong",
    no_connection: "Cannot reach the server.",
  },
  zh: {
    unknown: "未知浏览器",
    current: "当前浏览器",
    since: (time, address) => `自 ${time}，来自 ${address}`,
    end: "结束",
    ending: (agent) => `结束会话：${agent}`,
    failed_request: "出错了",
    no_connection: "无法连接服务器。",
  },
};
const words = WORDS[document.documentElement.lang.startsWith("zh") ? "zh" : "en"];

const page = document.getElementById("sessions");
const at = (name) => page.querySelector(`[data-part="${name}"]`);
const calls = new Calls(page.dataset.api, page.dataset.csrf);
const scope = page.querySelector(".choices select");
let asked = 0;

async function load() {
  const mine = ++asked;
  await attempt(async () => {
    const found = await calls.get(`?scope=${scope?.value ?? "own"}`);
    if (mine !== asked) return; // another choice came first
    keyed(at("list"), found, (one) => one.id, card);
    at("list").setAttribute("aria-busy", "false");
  });
}

/** Run `work` and show its error. */
async function attempt(work) {
  try {
    await work();
    say(at("told"), "");
  } catch (error) {
    if (error.status === undefined) throw error;
    at("told").dataset.state = "bad";
    say(at("told"), error.message || (error.status ? words.failed_request : words.no_connection));
  }
}

function card(one) {
  const agent = one.agent || words.unknown;
  const end = make("button", { type: "button", className: "quiet danger", "aria-label": words.ending(agent) }, words.end);
  end.addEventListener("click", async () => {
    await attempt(() => calls.post("/end", { id: one.id }));
    if (one.current) location.reload();
    else await load();
  });
  const element = make(
    "li",
    { className: "card record" },
    make(
      "header",
      {},
      make("div", {}, make("strong", {}, one.name), one.current ? make("span", { className: "badge" }, words.current) : null),
      end,
    ),
    make("p", {}, agent),
    make("p", { className: "note" }, words.since(moment(one.created), one.address || "–")),
  );
  element.update = () => {}; // a session does not change
  return element;
}

scope?.addEventListener("change", load);
page.querySelector(".choices")?.addEventListener("submit", (event) => event.preventDefault());
load();
