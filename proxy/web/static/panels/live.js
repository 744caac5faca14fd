// A live stream: server-sent events of a stream that ends every few seconds and is opened again.

const PATIENCE = 3000; // milliseconds until a stream that cannot be opened counts as lost
const RETRY = 5000; // milliseconds between attempts after a refusal
const SILENCE = 30000; // milliseconds; each stream is shorter, and begins with an event

/** Follow the stream at `address`: `handlers` maps names of events to functions of their data, and
 * `connected(yes)` is called when the stream works or is lost. `session` is where to ask whether
 * the user is still signed in; if not, the page is reloaded. Returns a function that ends it. */
export function follow(address, session, handlers, connected) {
  let source = null;
  let lost = 0;
  let retry = 0;
  let silence = 0;

  function heard() {
    clearTimeout(lost);
    clearTimeout(silence);
    lost = 0;
    silence = setTimeout(reopen, SILENCE);
    connected(true);
  }

  function close() {
    source?.close();
    source = null;
    clearTimeout(retry);
  }

  // There is one stream at a time: events of an earlier one are ignored.
  function open() {
    close();
    const own = (source = new EventSource(address));
    for (const [name, handle] of Object.entries(handlers)) {
      own.addEventListener(name, (event) => {
        if (own !== source) return;
        heard();
        handle(JSON.parse(event.data));
      });
    }
    own.addEventListener("error", () => {
      if (own !== source) return;
      lost ||= setTimeout(() => connected(false), PATIENCE);
      // Refused (signed out, or too many watchers); browsers do not retry then.
      if (own.readyState === EventSource.CLOSED) retry = setTimeout(() => again(own), RETRY);
    });
  }

  function reopen() {
    connected(false);
    open();
  }

  async function again(before) {
    try {
      const answer = await (await fetch(session)).json();
      if (before !== source) return;
      if (!answer.signed_in) return location.reload();
    } catch {
      // Still no connection; the next attempt follows.
    }
    if (before === source) open();
  }

  open();
  return () => {
    close();
    [lost, silence].forEach(clearTimeout);
  };
}
