// Images for the next question, if the model accepts images.

import { make } from "../panels/dom.js";
import { words } from "../panels/words.js";

const MOST = 8; // per message
const AS_THEY_ARE = new Set(["image/png", "image/jpeg"]); // types that every server can read
const EDGE = 2048; // pixels; models do not use more
const BYTES = 4e6;

export class Images {
  #waiting = []; // {name, url}

  /** `sees()` tells whether the chosen model accepts images; `tell(text)` shows an error. */
  constructor(list, sees, tell) {
    Object.assign(this, { list, sees, tell });
  }

  /** Take the images among these files; return the other files. */
  async take(files) {
    const images = files.filter((file) => file.type.startsWith("image/"));
    if (images.length && !this.sees()) this.tell(words("chat.no_eyes"));
    else for (const file of images) await this.#add(file);
    return files.filter((file) => !images.includes(file));
  }

  /** Return the images to send, and keep them. */
  get all() {
    return [...this.#waiting];
  }

  /** Remove the images that were sent; others may have been added since. */
  clear(sent) {
    this.#waiting = this.#waiting.filter((image) => !sent.includes(image));
    this.#draw();
  }

  async #add(file) {
    if (this.#waiting.length >= MOST) return this.tell(words("chat.too_many_images", { n: MOST }));
    const name = file.name || "image";
    try {
      this.#waiting.push({ name, url: await read(file) });
      this.#draw();
    } catch {
      this.tell(words("chat.no_image", { name }));
    }
  }

  #draw() {
    const chips = this.#waiting.map((image) => {
      const away = make("button", { type: "button", className: "quiet", "aria-label": words("common.remove_name", { name: image.name }) }, "×");
      away.addEventListener("click", () => {
        this.#waiting.splice(this.#waiting.indexOf(image), 1);
        this.#draw();
      });
      return make("li", { className: "thumbnail" }, make("img", { src: image.url, alt: image.name }), away);
    });
    this.list.replaceChildren(...chips);
  }
}

/** Return a file as a data: URL. Large images are scaled down; types that not all servers read
 * become JPEG. */
async function read(file) {
  const picture = await createImageBitmap(file);
  const scale = Math.min(1, EDGE / Math.max(picture.width, picture.height));
  if (scale === 1 && file.size <= BYTES && AS_THEY_ARE.has(file.type)) return url(file);
  const canvas = make("canvas", { width: picture.width * scale, height: picture.height * scale });
  const paper = canvas.getContext("2d");
  paper.fillStyle = "white"; // JPEG has no transparency
  paper.fillRect(0, 0, canvas.width, canvas.height);
  paper.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.9);
}

function url(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => done(reader.result));
    reader.addEventListener("error", failed);
    reader.readAsDataURL(file);
  });
}
