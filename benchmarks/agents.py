"""Measures an agent with sub-agents and titles on two slots: ``python -m benchmarks.agents``.

The requests have the shapes of Claude Code's and Codex': long system prompts with tools, a session
id in the header and in ``metadata.user_id`` or ``prompt_cache_key``, requests for titles without
tools, two sub-agents at a time with prompts of their own, and tools that run for some tenths of a
second. The same requests go to a llama-server directly, which chooses slots by the longest common
prefix, and through slotproxy. The figure is the number of prompt tokens that the server reports as
evaluated, divided by the number if each conversation's tokens were evaluated once; sub-agents share
a system prompt, so it may be below 1.

Sizes are a sixteenth of the real ones (Claude Code's first prompt has 52 000 tokens, Codex'
17 700), and so are the times of tools. The model has random weights: tokens are counted, not words.
Tools must be called where the real agents call them, because such a model does not choose to.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import random
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tools import made_up_model, servers
from tools.processes import Gateway, ModelServer

SLOTS = 2
CONTEXT = 16384  # tokens of a slot
ANSWER = 16  # tokens
TASKS = 2  # of the user, one after the other
THINKING = 5.0  # seconds of the user between two tasks
TEMPLATE = Path(__file__).parent.parent / "templates" / "chat" / "hermes.jinja"
SERVER = [
    "--jinja",
    "--chat-template-file",
    f"{TEMPLATE}",
    "--metrics",
    "--override-kv",
    f"llama.context_length=int:{CONTEXT}",
]
WORDS = (
    "the of to and in is it you that he was for on are as with his they at be this have from or one"
    " had by word but not what all were we when your can said there use an each which she do how if"
).split()


@dataclass(frozen=True)
class Agent:
    """An agent's sizes, in words of about one token. `gaps` are the seconds that its tools take."""

    name: str
    path: str
    system: int
    sub_system: int
    tools: tuple[str, ...]
    sub_tools: tuple[str, ...]
    delegate: str
    titles: bool
    turns: int = 4
    sub_turns: int = 5
    result: int = 120
    gaps: tuple[float, float] = (0.05, 0.4)


CLAUDE = Agent(
    "Claude Code",
    "/v1/messages",
    system=2600,
    sub_system=700,
    tools=tuple("Task Bash Glob Grep Read Edit Write NotebookEdit WebFetch TodoWrite".split()),
    sub_tools=tuple("Bash Glob Grep Read".split()),
    delegate="Task",
    titles=True,
)
CODEX = Agent(
    "Codex",
    "/v1/responses",
    system=850,
    sub_system=850,
    tools=tuple("shell apply_patch update_plan view_image spawn_agent wait".split()),
    sub_tools=tuple("shell apply_patch update_plan view_image".split()),
    delegate="wait",
    titles=False,
)


@dataclass
class Work:
    """One run: `sizes` are the prompt tokens of each conversation's newest turn."""

    agent: Agent
    url: str
    seed: int
    sizes: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    requests: int = 0
    verbose: bool = False
    began: float = field(default_factory=time.monotonic)

    def words(self, count: int, *salt: object) -> str:
        return " ".join(random.Random(f"{self.seed} {salt}").choices(WORDS, k=count))

    def gap(self, *salt: object) -> float:
        return random.Random(f"{self.seed} gap {salt}").uniform(*self.agent.gaps)


class Conversation:
    """A conversation in Anthropic's or OpenAI's Responses form. `tools` "" has none."""

    def __init__(self, work: Work, name: str, system: str, tools: tuple[str, ...]) -> None:
        self._work = work
        self._name = name
        self._system = system
        self._tools = tools
        self._items: list[dict[str, Any]] = []
        self._anthropic = work.agent.path == "/v1/messages"
        self._calls = itertools.count()

    def ask(self, text: str) -> None:
        """The user, or the main agent, says something."""
        self._items.append({"role": "user", "content": text})

    def result(self, tool: str, text: str) -> None:
        """Add a call of this tool and its result."""
        key = f"call_{self._name}_{next(self._calls)}".replace(" ", "_")
        path = {"path": f"/src/{key}.py"}
        if self._anthropic:
            use = {"type": "tool_use", "id": key, "name": tool, "input": path}
            output = {"type": "tool_result", "tool_use_id": key, "content": text}
            self._items.append({"role": "assistant", "content": [use]})
            self._items.append({"role": "user", "content": [output]})
            return
        call = {"type": "function_call", "call_id": key, "name": tool}
        self._items.append({**call, "arguments": json.dumps(path)})
        self._items.append({"type": "function_call_output", "call_id": key, "output": text})

    def say(self, text: str) -> None:
        """The model answered with a text."""
        if self._anthropic:
            self._items.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
        else:
            part = {"type": "output_text", "text": text}
            self._items.append({"type": "message", "role": "assistant", "content": [part]})

    def turn(self, tool: str = "") -> None:
        """Send the conversation; the model must call this tool."""
        work = self._work
        body, headers = self._claude(tool) if self._anthropic else self._codex(tool)
        parts = urlsplit(work.url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=600)
        try:
            headers["Content-Type"] = "application/json"
            connection.request("POST", work.agent.path, json.dumps(body).encode(), headers)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status != 200:
                work.lost.append(f"{answer.status} {data[:200]!r}")
                return
            usage = json.loads(data)["usage"]
            cached = usage.get("cache_read_input_tokens", 0)
            size = usage["input_tokens"] + cached
            if work.verbose:
                headers = {k: v for k, v in answer.getheaders() if k.startswith("x-slotproxy")}
                print(
                    f"{time.monotonic() - work.began:6.1f} {self._name:16} {size:6} tokens,"
                    f" {cached:6} cached {headers}",
                    flush=True,
                )
            work.sizes[self._name] = max(size, work.sizes.get(self._name, 0))
            work.requests += 1
        finally:
            connection.close()

    def _claude(self, tool: str) -> tuple[dict[str, Any], dict[str, str]]:
        session = f"session-{self._work.seed}"
        user = json.dumps({"device_id": "d" * 64, "account_uuid": "", "session_id": session})
        body: dict[str, Any] = {
            "model": "claude-sonnet" if self._tools else "claude-haiku",
            "max_tokens": ANSWER,
            "system": [{"type": "text", "text": self._system}],
            "messages": self._items,
            "metadata": {"user_id": user},
        }
        if self._tools:
            schema = {"type": "object", "properties": {"path": {"type": "string"}}}
            body["tools"] = [
                {
                    "name": name,
                    "description": self._work.words(40, name),
                    "input_schema": {**schema, "required": ["path"]},
                }
                for name in self._tools
            ]
            body["tool_choice"] = {"type": "tool", "name": tool} if tool else {"type": "auto"}
        return body, {"X-Claude-Code-Session-Id": session}

    def _codex(self, tool: str) -> tuple[dict[str, Any], dict[str, str]]:
        session = f"session-{self._work.seed}"
        schema = {"type": "object", "properties": {"path": {"type": "string"}}}
        body: dict[str, Any] = {
            "model": "gpt-codex",
            "instructions": self._system,
            "input": self._items,
            "tools": [
                {
                    "type": "function",
                    "name": name,
                    "description": self._work.words(40, name),
                    "strict": False,
                    "parameters": {**schema, "required": ["path"]},
                }
                for name in self._tools
            ],
            "tool_choice": {"type": "function", "name": tool} if tool else "auto",
            "parallel_tool_calls": False,
            "store": False,
            "max_output_tokens": ANSWER,
            "prompt_cache_key": f"{session}-{self._name}",
        }
        return body, {"Session-Id": session}


def title(work: Work, task: int) -> None:
    """A request for a title of the user's task."""
    conversation = Conversation(work, f"title {task}", work.words(60, "title"), ())
    conversation.ask(work.words(40, "task", task))
    conversation.turn()


def sub_agent(work: Work, task: int, number: int) -> None:
    """A sub-agent's work: some calls, and a report."""
    agent, name = work.agent, f"sub-agent {task}.{number}"
    conversation = Conversation(work, name, work.words(agent.sub_system, "sub"), agent.sub_tools)
    conversation.ask(work.words(150, name))
    for turn in range(agent.sub_turns):
        tool = agent.sub_tools[turn % len(agent.sub_tools)]
        conversation.turn(tool)
        time.sleep(work.gap(name, turn))  # the tool runs
        conversation.result(tool, work.words(agent.result, name, turn))
    conversation.turn()


def run(work: Work) -> None:
    """The main agent's work: each task has calls, two sub-agents at a time, and calls again."""
    agent = work.agent
    main = Conversation(work, "main", work.words(agent.system, "main"), agent.tools)
    for task in range(TASKS):
        main.ask(work.words(40, "task", task))
        beside = []
        if agent.titles:
            beside.append(threading.Thread(target=title, args=(work, task)))
            beside[0].start()
        for turn in range(agent.turns):
            delegates = turn == agent.turns // 2
            tool = agent.delegate if delegates else agent.tools[1 + turn % 3]
            main.turn(tool)
            if delegates:
                subs = [threading.Thread(target=sub_agent, args=(work, task, n)) for n in (1, 2)]
                for thread in subs:
                    thread.start()
                for thread in subs:
                    thread.join()
            else:
                time.sleep(work.gap("main", task, turn))  # the tool runs
            main.result(tool, work.words(agent.result, "main", task, turn))
        main.turn()
        main.say(work.words(30, "report", task))
        for thread in beside:
            thread.join()
        time.sleep(THINKING)  # the person reads


def evaluated(url: str) -> int:
    """The prompt tokens that the server has evaluated so far."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request("GET", "/metrics")
        for line in connection.getresponse().read().decode().splitlines():
            if line.startswith("llamacpp:prompt_tokens_total "):
                return int(float(line.split()[1]))
    finally:
        connection.close()
    raise SystemExit("the server has no /metrics")


def measure(agent: Agent, way: str, *, ram: bool, seed: int, verbose: bool) -> dict[str, Any]:
    """One run with a new server: directly ("straight") or through slotproxy ("gateway")."""
    binary = servers.find("llama-2026")
    if binary is None:
        raise SystemExit("llama-2026 is not built: python -m tools.servers build llama-2026")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = ModelServer(
            "llama-2026",
            binary,
            made_up_model.cached(),
            folder / "server.log",
            slots=SLOTS,
            ctx=CONTEXT * SLOTS,
            extra=[*SERVER, *([] if ram else ["--cache-ram", "0"])],
        )
        stack.callback(server.kill)
        server.start()
        url = server.url
        if way == "gateway":
            flags = ["--llama-api", url, "--log-level", "warning", "--ledger-days", "0"]
            gateway = Gateway(flags, folder / "log")
            stack.callback(gateway.stop)
            gateway.start()
            url = gateway.url
        work = Work(agent, url, seed, verbose=verbose)
        before, began = evaluated(server.url), time.monotonic()
        run(work)
        tokens, once = evaluated(server.url) - before, sum(work.sizes.values())
        return {
            "agent": agent.name,
            "way": way,
            "ram": ram,
            "requests": work.requests,
            "evaluated": tokens,
            "once": once,
            "multiple": round(tokens / max(1, once), 2),
            "seconds": round(time.monotonic() - began, 1),
            "lost": work.lost,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="An agent, sub-agents and titles on two slots.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="only agents whose name contains this")
    parser.add_argument("--way", default="", choices=["", "straight", "gateway"])
    parser.add_argument("--ram", action="store_true", help="the server has its RAM cache")
    parser.add_argument("--verbose", action="store_true", help="print each request")
    args = parser.parse_args()
    for agent in (CLAUDE, CODEX):
        for way in ("straight", "gateway"):
            if args.only in agent.name and args.way in ("", way):
                print(
                    json.dumps(
                        measure(agent, way, ram=args.ram, seed=args.seed, verbose=args.verbose)
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    main()
