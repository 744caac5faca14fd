// The page of sign-in sessions: which browsers are signed in, and a button to end each.

import { agentName } from "./agents.js";
import { Calls } from "./calls.js";
import { keyed, make, say } from "./dom.js";
import { moment } from "./form.js";
import { words } from "./words.js";

const page = document.getElementById("sessions");
const at = (name) => page.querySelector(`[data-part="${name}"]`);
const calls = new Calls(page.dataset.api, page.dataset.csrf);
const scope = page.querySelector(".choices select");
let reads = 0;

async function load() {
  const mine = ++reads;
  await attempt(async () => {
    const sessions = await calls.get(`?scope=${scope?.value ?? "own"}`);
    if (mine !== reads) return; // another choice came first
    keyed(at("list"), sessions, (session) => session.id, card);
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
    say(at("told"), error.message || (error.status ? words("common.failed_request") : words("common.no_connection")));
  }
}

function card(session) {
  const agent = agentName(session.agent);
  const end = make("button", { type: "button", className: "quiet danger", "aria-label": words("sessions.ending", { agent }) }, words("sessions.end"));
  end.addEventListener("click", async () => {
    await attempt(() => calls.post("/end", { id: session.id }));
    if (session.current) location.reload();
    else await load();
  });
  const element = make(
    "li",
    { className: "card record" },
    make(
      "header",
      {},
      make("div", { className: "what" }, make("strong", {}, session.name), session.current ? make("span", { className: "badge" }, words("sessions.current")) : null),
      end,
    ),
    make("p", { title: session.agent || null }, agent),
    make("p", { className: "note" }, words("sessions.since", { time: moment(session.created), address: session.address || "–" })),
  );
  element.update = () => {}; // a session does not change
  return element;
}

scope?.addEventListener("change", load);
page.querySelector(".choices")?.addEventListener("submit", (event) => event.preventDefault());
load();
