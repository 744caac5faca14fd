// Calls from a page to the gateway: JSON, the CSRF token, and errors in the server's own words.

/** An error answer. `code` is the gateway's error code; `message` can be shown to the user. */
export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class Calls {
  constructor(root, token) {
    this.root = root;
    this.token = token;
  }

  get = (path) => this.#call("GET", path);
  post = (path, value = {}, signal) => this.#call("POST", path, value, signal);
  put = (path, value) => this.#call("PUT", path, value);
  remove = (path) => this.#call("DELETE", path);

  /** Upload a file; `told(sent, all)` reports bytes. Only XMLHttpRequest reports upload
   * progress. */
  send(path, file, progressed) {
    return new Promise((done, failed) => {
      const request = new XMLHttpRequest();
      request.open("POST", this.root + path);
      request.setRequestHeader("X-CSRF-Token", this.token);
      request.setRequestHeader("Content-Type", "application/octet-stream");
      request.setRequestHeader("Accept", "application/json");
      request.upload.addEventListener("progress", (event) => progressed(event.loaded, event.total));
      request.addEventListener("load", () => {
        if (request.status < 400) done(JSON.parse(request.responseText));
        else failed(refusal(request.status, request.responseText));
      });
      request.addEventListener("error", () => failed(new Refused(0, "", "")));
      request.send(file);
    });
  }

  async #call(method, path, value, signal) {
    const headers = { Accept: "application/json" };
    if (method !== "GET") headers["X-CSRF-Token"] = this.token;
    if (value !== undefined && !(value instanceof FormData)) headers["Content-Type"] = "application/json";
    let answer;
    let text;
    try {
      const body = value instanceof FormData ? value : JSON.stringify(value);
      const sent = value === undefined ? {} : { body };
      answer = await fetch(this.root + path, { method, headers, signal, ...sent });
      text = await answer.text();
    } catch {
      throw new Refused(0, "", "");
    }
    if (answer.status === 401) location.reload();
    if (!answer.ok) throw refusal(answer.status, text);
    return text ? JSON.parse(text) : null;
  }
}

function refusal(status, text) {
  try {
    const { error } = JSON.parse(text);
    return new Refused(status, error.code, error.message);
  } catch {
    return new Refused(status, "", "");
  }
}
