"""Updates the capability table of backends, measured on real servers through the gateway.

``python -m tools.capabilities`` starts each backend available on this machine with a model of
random weights, tests each capability, and rewrites the table between the two markers of
docs/compatibility.md. Columns of unavailable backends stay unchanged, and that of PowerInfer's
server says when it was measured. ``tests/integration/test_capabilities.py`` measures too, and fails
if the page differs.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools import llama_cpp_python, made_up_chatglm, made_up_model, servers
from tools.dated import headings, without_day
from tools.processes import Gateway, LlamaCppPythonServer, ModelServer, ask

BEGIN, END = "<!-- capabilities -->", "<!-- /capabilities -->"
PAGE = servers.ROOT / "docs" / "compatibility.md"
YES, NO = "yes", "–"
NOTES = (
    "`suffix`: the made-up model has no tokens for it; llama-server fills in with one that has.",
    "`seed`: servers of 2023 and PowerInfer ignore it, which a warning says; chatglm_cpp refuses"
    " it by name.",
    "chatglm_cpp knows no grammars and no logprobs, and refuses by name what needs them; it keeps"
    " no cache. One tool that must be called is begun in the model's place, but an"
    " untrained model may never finish the call.",
    "By its `/v1`, a server enforces calls itself: llama-server lets free text come before one, and"
    " llama-cpp-python's enforces only the call of a tool that is named, or the only one: for a"
    " call of any of several, slotproxy describes the tools in the prompt and asks for a document"
    " by their schema. It refuses an answer without the call.",
)
SECONDS = 60.0

Post = Callable[[str, dict[str, Any]], Any]
Check = Callable[[Post], bool]

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 9}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "now"}},
]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def _chat(post: Post, **fields: Any) -> Any:
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, **fields}
    return post(CHAT, body)


def _content(reply: Any) -> str:
    return str(reply["choices"][0]["message"]["content"])


def _called(reply: Any) -> bool:
    choice = reply["choices"][0]
    call = choice["message"]["tool_calls"][0]["function"]
    return choice["finish_reason"] == "tool_calls" and isinstance(
        json.loads(call["arguments"]), dict
    )


def _streams(post: Post) -> bool:
    events = _chat(post, stream=True)
    return isinstance(events, str) and events.rstrip().endswith("data: [DONE]")


def _same(post: Post) -> bool:
    """Ask three times: the first prompt may be evaluated, the others are in the slot."""
    _, once, again = (_content(_chat(post, seed=7, temperature=1.0)) for _ in range(3))
    return once == again


def _schema(post: Post) -> bool:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY, "strict": True}}
    reply = _chat(post, response_format=form, max_tokens=200)
    return set(json.loads(_content(reply))) == {"city"}


def _cached(post: Post) -> bool:
    """Whether the second turn of a conversation uses the cache."""
    turn = {"role": "user", "content": "Hello"}
    answer = {"role": "assistant", "content": _content(_chat(post, prompt_cache_key="one"))}
    reply = _chat(post, messages=[turn, answer, turn], prompt_cache_key="one")
    return bool(reply["usage"]["prompt_tokens_details"]["cached_tokens"] > 0)


def _logprobs(post: Post) -> bool:
    reply = _chat(post, logprobs=True, top_logprobs=2)
    return len(reply["choices"][0]["logprobs"]["content"]) > 0


CHECKS: Mapping[str, Check] = {
    "chat": lambda post: bool(_content(_chat(post))),
    "chat, streamed": _streams,
    "`n` choices": lambda post: len(_chat(post, n=3)["choices"]) == 3,
    "text completions": lambda post: bool(
        post(TEXT, {"prompt": "Once", "max_tokens": 9})["choices"][0]["text"]
    ),
    "`suffix` (infill)": lambda post: (
        "choices" in post(TEXT, {"prompt": "a", "suffix": "b", "max_tokens": 9})
    ),
    "the same `seed` gives the same answer": _same,
    "`logprobs`": _logprobs,
    "`cached_tokens` in usage": _cached,
    "tools offered (`auto`)": lambda post: bool(_chat(post, tools=TOOLS)["choices"]),
    "a call that must be (`required`)": lambda post: _called(
        _chat(
            post,
            tools=TOOLS,
            tool_choice="required",
            max_tokens=300,
            parallel_tool_calls=False,
        )
    ),
    "a named call": lambda post: _called(
        _chat(post, tools=TOOLS, tool_choice=NAMED, max_tokens=300)
    ),
    "JSON schema, strict": _schema,
    # llama-server lets a model begin with a line of "```json", which the gateway takes off.
    "any JSON object": lambda post: _content(
        _chat(post, response_format={"type": "json_object"}, max_tokens=80)
    ).startswith("{"),
    "GBNF `grammar`": lambda post: (
        _content(_chat(post, grammar='root ::= "yes" | "no"')) in ("yes", "no")
    ),
}


@contextmanager
def _gateway(folder: Path, *flags: str) -> Iterator[str]:
    gateway = Gateway(flags, folder / "gateway.log")
    try:
        gateway.start()
        yield gateway.url
    finally:
        gateway.stop()


@contextmanager
def _server_cpp(name: str, folder: Path, *flags: str) -> Iterator[str | None]:
    binary = servers.find(name)
    if binary is None:
        yield None
        return
    server = ModelServer(name, binary, made_up_model.cached(), folder / "server.log")
    try:
        server.start()
        with _gateway(folder, "--llama-api", server.url, "--slots", "2", *flags) as url:
            yield url
    finally:
        server.kill()


def _by_openai(folder: Path, url: str, slots: int) -> Any:
    """A gateway in front of a server with OpenAI's API."""
    config = folder / "openai.toml"
    config.write_text(f'[[backend]]\nkind = "openai"\nurl = "{url}/v1"\nslots = {slots}\n')
    return _gateway(folder, "--config", str(config))


@contextmanager
def _llama_server_by_openai(folder: Path) -> Iterator[str | None]:
    binary = servers.find("llama-2026")
    if binary is None:
        yield None
        return
    server = ModelServer("llama-2026", binary, made_up_model.cached(), folder / "server.log")
    try:
        server.start()
        with _by_openai(folder, server.url, 2) as url:
            yield url
    finally:
        server.kill()


@contextmanager
def _llama_cpp_python(folder: Path) -> Iterator[str | None]:
    python = llama_cpp_python.find()
    if python is None:
        yield None
        return
    server = LlamaCppPythonServer(python, made_up_model.cached(), folder / "server.log")
    try:
        server.start()
        with _by_openai(folder, server.url, 1) as url:
            yield url
    finally:
        server.kill()


@contextmanager
def _chatglm(folder: Path) -> Iterator[str | None]:
    if importlib.util.find_spec("chatglm_cpp") is None:
        yield None
        return
    model = made_up_chatglm.write(folder / "made-up.bin")
    with _gateway(folder, "--chatglm-model", str(model)) as url:
        yield url


POWERINFER = "PowerInfer's `server`"
BACKENDS: Mapping[str, Callable[[Path], Any]] = {
    "`server` of 2023": lambda folder: _server_cpp("llama-2023", folder),
    POWERINFER: lambda folder: _server_cpp("powerinfer", folder),
    "`llama-server` of 2026": lambda folder: _server_cpp(
        "llama-2026", folder, "--chat-mode", "completion"
    ),
    "`llama-server`, its own chat": lambda folder: _server_cpp(
        "llama-2026", folder, "--chat-mode", "native"
    ),
    "`llama-server` by its `/v1`": _llama_server_by_openai,
    "llama-cpp-python's server": _llama_cpp_python,
    "chatglm_cpp": _chatglm,
}


def measure(name: str) -> dict[str, bool] | None:
    """Return the result of each row for a backend; None if it is not available."""
    with tempfile.TemporaryDirectory() as path, BACKENDS[name](Path(path)) as url:
        if url is None:
            return None

        def post(route: str, body: dict[str, Any]) -> Any:
            _, data = ask(url + route, body, SECONDS)
            return data.decode() if body.get("stream") else json.loads(data)

        return {row: _holds(check, post) for row, check in CHECKS.items()}


def _holds(check: Check, post: Post) -> bool:
    """Run a check. An error answer has none of the fields that a check looks for."""
    try:
        return check(post)
    except (KeyError, IndexError, TypeError, ValueError):
        return False


def written(text: str) -> dict[str, dict[str, str]]:
    """Parse the columns of the page, by backend."""
    rows = _rows(text)
    if not rows:
        return {}
    return {
        without_day(name): {row[0]: row[at] for row in rows[1:]}
        for at, name in enumerate(rows[0])
        if at
    }


def _rows(text: str) -> list[list[str]]:
    inside = text.partition(BEGIN)[2].partition(END)[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in inside.strip().splitlines()
        if line.startswith("|") and not line.startswith("|---")
    ]


def markdown(columns: Mapping[str, Mapping[str, str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rows = [line(["", *columns]), "|---" * (len(columns) + 1) + "|"]
    rows += [line([row, *(column.get(row, "") for column in columns.values())]) for row in CHECKS]
    return "\n".join((*rows, "", *(f"- {note}" for note in NOTES)))


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    columns = written(text)
    measured = []
    for name in BACKENDS:
        results = measure(name)
        if results is not None:
            columns[name] = {row: YES if holds else NO for row, holds in results.items()}
            measured.append(name)
    before = [cell for row in _rows(text)[:1] for cell in row]
    dated = [name for name in measured if name == POWERINFER]
    names = headings(BACKENDS, before, dated, datetime.date.today())
    ordered = dict(zip(names, (columns.get(name, {}) for name in BACKENDS), strict=True))
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n{markdown(ordered)}\n{END}{tail}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
