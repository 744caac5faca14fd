// The page of an invitation: shows the key that its token, behind the #, gives once.

import { Calls } from "./calls.js";
import { copyText, say } from "./dom.js";
import { words } from "./words.js";

const page = document.getElementById("invitation");
const at = (name) => page.querySelector(`[data-part="${name}"]`);
const calls = new Calls(page.dataset.api, page.dataset.csrf);
const field = at("key").elements.key;

function tell(text) {
  at("told").hidden = !text;
  say(at("told"), text);
}

at("accept").addEventListener("click", async () => {
  at("accept").disabled = true;
  tell("");
  try {
    const { key, name } = await calls.post("", { token: location.hash.slice(1) });
    history.replaceState(null, "", location.pathname); // it is used up
    field.value = key;
    say(at("hello"), name ? words("invitation.hello", { name }) : words("invitation.ready"));
    say(at("address"), new URL(`${document.body.dataset.home}v1`, location.href).href);
    at("offer").hidden = at("accept").hidden = true;
    at("key").hidden = false;
    field.select();
  } catch (error) {
    if (error.status === undefined) throw error;
    at("accept").disabled = false;
    tell(error.message || (error.status ? words("common.failed_request") : words("common.no_connection")));
  }
});

at("copy").addEventListener("click", async () => {
  const copied = await copyText(field.value);
  if (!copied) field.select();
  say(at("copied"), copied ? words("keys.copied") : words("keys.not_copied"));
});

if (!location.hash) {
  at("accept").disabled = true;
  tell(words("invitation.incomplete"));
}
