// While the user types, the gateway evaluates the conversation and the question so far, so that the answer begins sooner.

const PAUSE = 500; // milliseconds without a key
const LONG = 1000; // characters of a question that are worth a request

/** `send(signal)` asks the gateway. */
export class Warming {
  #send;
  #timer;
  #request;
  #place; // what was sent last: the place in a conversation,
  #length = 0; // and how much of the question

  constructor(send) {
    this.#send = send;
  }

  /** The question has so many characters now, after the message `place`, "" for none. */
  typed(place, length) {
    clearTimeout(this.#timer);
    const sent = this.#place === place ? this.#length : place ? -LONG : 0;
    if (!length || this.#request || length - sent < LONG) return;
    this.#timer = setTimeout(async () => {
      this.#place = place;
      this.#length = length;
      this.#request = new AbortController();
      await this.#send(this.#request.signal).catch(() => {});
      this.#request = undefined;
    }, PAUSE);
  }

  /** The question is sent: its own request evaluates the rest. */
  stop() {
    clearTimeout(this.#timer);
    this.#request?.abort();
  }
}
