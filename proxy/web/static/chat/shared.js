// A conversation that is shared by link: its messages, in order.

import { make } from "../panels/dom.js";
import { moment } from "../panels/form.js";
import { render } from "./markdown.js";
import { words } from "../panels/words.js";

const at = (name) => document.querySelector(`[data-part="${name}"]`);
at("created").textContent = moment(Number(at("created").dataset.seconds));

for (const { role, content, model, images } of JSON.parse(at("shared").textContent)) {
  const user = role === "user";
  const said = make("div", { className: user ? "said" : "said markdown" });
  const pictures = images.map(({ name, url }) => make("img", { src: url, alt: name, loading: "lazy" }));
  const label = words(user ? "chat.you" : "chat.answer");
  const message = make("article", { className: `message ${role}`, "aria-label": label });
  if (model) message.append(make("p", { className: "note" }, model));
  if (pictures.length) message.append(make("div", { className: "images" }, pictures));
  message.append(said);
  if (user) said.textContent = content;
  else render(said, content);
  at("messages").append(message);
}
