"""``make run`` and ``make run-chatglm``: run slotproxy with a model to try, until Ctrl-C.

``python -m tools.run`` fetches SmolLM2, a small real model, builds the llama.cpp server of 2023,
and starts that server and slotproxy in front of it. If the model cannot be fetched, the bundled
tinychat replaces it. When one of the two children dies, the other is ended. ``--chatglm`` installs
chatglm_cpp and starts slotproxy alone, with the bundled ChatGLM model. ``--llama-api URL`` uses a
server that is already running. Unknown flags are passed to slotproxy.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

from tools import chatglm, servers, smollm2
from tools.processes import Child, Died, Gateway, ModelServer, ask, free_port

SLOTS = 4
CONTEXT = 4096  # tokens per slot
ENDING = (signal.SIGTERM, signal.SIGHUP)
BUNDLED = servers.ROOT / "models" / "tinychat-llama.gguf"
EMBEDDED = servers.ROOT / "models" / "tinychat-chatglm3.bin"
# The default sampling of the server of 2023 suits models fifty times as large. A small model would
# digress, and miscount, since numbers it has written are penalised.
SAMPLING = "temperature=0.2,top_p=0.9,repeat_penalty=1.05"


def say(text: str) -> None:
    """Print one line for the user."""
    print(text, file=sys.stderr, flush=True)


def find_model() -> Path:
    """Return the model: SmolLM2, or the bundled one if SmolLM2 cannot be fetched."""
    try:
        return smollm2.fetch(servers.terminal())
    except servers.BuildError as error:
        say(f"{error}\n{smollm2.NAME} cannot be fetched; using the bundled tinychat instead.")
        say("It only knows a few phrases. With a network, `make run` fetches the better model.")
        return BUNDLED


def model_server(port: int) -> tuple[ModelServer, list[str]]:
    """Return the server of 2023 with a small model, not started, and the flags slotproxy needs for
    it."""
    model = find_model()
    binary = servers.build("llama-2023", servers.terminal())
    # This server does not report its number of slots or its model's template.
    flags = ["--slots", str(SLOTS), "--chat-template", "chatml", "--sampling", SAMPLING]
    log = servers.cache() / "run" / f"llama-2023-{port}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    context = SLOTS * CONTEXT
    server = ModelServer("llama-2023", binary, model, log, slots=SLOTS, ctx=context, threads=2)
    return server, [*flags, "--llama-api", server.url]


def curl(url: str) -> str:
    """Return a command line to try the gateway with."""
    body = {
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": 64,
    }
    return (
        f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' "
        f"-d '{json.dumps(body)}'"
    )


def is_up(gateway: Gateway) -> bool:
    """Whether a backend is up, as the status page says: a refusal of /readyz is logged."""
    status, data = ask(f"{gateway.url}/pages/api/status")
    if status != 200:
        return gateway.is_ready()
    return any(backend["state"] == "up" for backend in json.loads(data)["backends"])


def wait_ready(gateway: Gateway, others: list[Child]) -> None:
    """Wait until a backend is up. An existing server may still be loading its model, so there is
    no time limit."""
    hint = time.monotonic() + 15
    while not is_up(gateway):
        watch([gateway, *others])
        if hint and time.monotonic() > hint:
            say("the model does not answer yet; still waiting (Ctrl-C to stop)")
            hint = 0.0
        time.sleep(0.5)


def check_free(port: int) -> None:
    """Raise ``Died`` if slotproxy could not listen on the port: better before a build than
    after."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise Died(f"port {port}: {reason}; make run PORT=… uses another") from None


def watch(children: list[Child]) -> None:
    """Raise ``Died`` when a child has ended."""
    for child in children:
        if not child.alive:
            raise child.fail("has ended")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.run", allow_abbrev=False)
    parser.add_argument("--llama-api", help="a server that is already running")
    parser.add_argument("--chatglm", action="store_true", help="run the bundled ChatGLM model")
    parser.add_argument("--port", type=int, default=8081, help="slotproxy's port; 0: any free port")
    args, flags = parser.parse_known_args(argv)
    port = args.port or free_port()

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    for number in ENDING:
        signal.signal(number, stop)
    children: list[Child] = []
    try:
        check_free(port)
        if args.llama_api:
            flags = ["--llama-api", args.llama_api, *flags]
        elif args.chatglm:
            chatglm.install(servers.terminal())
            flags = ["--chatglm-model", str(EMBEDDED), *flags]
        else:
            server, needed = model_server(port)
            children.append(server)
            say(f"starting {server.name} with {server.command[2]}")
            server.start()
            flags = [*needed, *flags]
        gateway = Gateway(flags, log=None, port=port)
        children.append(gateway)
        gateway.launch()
        wait_ready(gateway, children)
        say(
            f"\nslotproxy is ready (Ctrl-C ends it). Open {gateway.url} in a browser, or try:\n\n"
            f"{curl(gateway.url)}\n"
        )
        while True:
            watch(children)
            time.sleep(0.2)
    except KeyboardInterrupt:
        say("\nending")
        return 0
    except (Died, servers.BuildError) as error:
        say(str(error))
        return 1
    finally:
        # A second signal (make forwards its own) must not leave a child behind.
        for number in (*ENDING, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        for child in reversed(children):
            if child.alive:
                # SIGINT ends answers at once. A server that began in the background ignores it.
                child.stop(signal.SIGINT if child.name == "slotproxy" else signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
