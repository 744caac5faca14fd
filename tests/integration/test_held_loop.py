"""No request, and no backend, keeps others waiting: each test sends a real gateway the worst there
is, while another process asks for /livez again and again (see `held`).
"""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from proxy.gateway.adapt import MOST_ALTERNATIVES
from tests.integration.conftest import StartGateway
from tests.integration.held import watched
from tools.processes import Gateway, held_port

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.slow,
    pytest.mark.alone,
]

OTHER_SERVER = Path(__file__).parents[1] / "other_http_server.py"
LONGEST = 0.1  # seconds that the loop may be blocked
TRIES = 4  # one may meet a stalled machine, or memory that a virtual one has not touched before
SAID = [{"role": "user", "content": "hello"}]


def assert_loop_stays_free(
    gateway: Gateway, work: Callable[[], None], path: str = "/livez", longest: float = LONGEST
) -> None:
    """Runs `work` while the loop is watched."""
    seen = []
    for _ in range(TRIES):
        before = len(gateway.log)
        with watched(gateway, path) as held:
            work()
            time.sleep(0.05)  # includes the gateway's work after the answer
        assert held.count > 2
        seen.append(held.longest)
        if held.longest < longest:
            return
    lines = [line for line in gateway.log[before:].splitlines() if "loop was blocked" in line]
    pytest.fail(f"the loop was held for {seen} s: {lines}")


def _schema(schema: Any, strict: bool = False) -> dict[str, Any]:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": schema, "strict": strict},
    }
    return {"messages": SAID, "response_format": form, "max_tokens": 1}


def _tools(count: int, parameters: Any) -> dict[str, Any]:
    tools = [
        {"type": "function", "function": {"name": f"f{i}", "parameters": parameters(i)}}
        for i in range(count)
    ]
    return {"messages": SAID, "tools": tools, "tool_choice": "required", "max_tokens": 1}


class Sent(NamedTuple):
    """A body that is not JSON as Python writes it."""

    data: bytes
    kind: str = "application/json"


def _form(*parts: tuple[bytes, bytes]) -> Sent:
    body = b"".join(b"--B\r\n%b\r\n\r\n%b\r\n" % part for part in parts) + b"--B--\r\n"
    return Sent(body, "multipart/form-data; boundary=B")


def _file(data: bytes, field: bytes = b"file") -> tuple[bytes, bytes]:
    head = b'Content-Disposition: form-data; name="%b"; filename="a.txt"' % field
    return head, data


PURPOSE = b'Content-Disposition: form-data; name="purpose"', b"assistants"


def _calls(arguments: str, count: int = 1) -> dict[str, Any]:
    calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": arguments}}
        for i in range(count)
    ]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "x"} for call in calls]
    said = [*SAID, {"role": "assistant", "tool_calls": calls}, *results]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    return {"messages": said, "tools": [tool], "max_tokens": 1}


def _random(size: int) -> str:
    return base64.b64encode(random.Random(1).randbytes(size)).decode()


def _turns(count: int, text: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i in range(count)]


def _floats(count: int) -> str:
    return json.dumps({"a": [1.5e300] * count})


def _ollama(messages: list[dict[str, Any]]) -> dict[str, Any]:
    short = {"stream": False, "options": {"num_predict": 1}}
    return {"model": "stub", "messages": messages, **short}


def _picture() -> dict[str, Any]:
    image = {"url": "data:image/png;base64," + _random(20_000_000)}
    parts = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": image}]
    return {"messages": [{"role": "user", "content": parts}]}


def _patterns() -> dict[str, Any]:
    patterns = {f"p{i}": f"[a-z]{{1,{400 + i}}}" for i in range(200)}
    fields = {k: {"type": "string", "pattern": f"^{v}{v}{v}$"} for k, v in patterns.items()}
    return _schema({"type": "object", "properties": fields})


def _parameters(number: int) -> dict[str, Any]:
    fields = {f"p{k}": {"type": "string", "minLength": number + k} for k in range(20)}
    return {"type": "object", "properties": fields}


def _grammar() -> str:
    root = " ".join(f"a{i}" for i in range(15_000))
    return f"root ::= {root}\n" + "".join(f'a{i}::="x"\n' for i in reversed(range(15_000)))


CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
FORM = "application/x-www-form-urlencoded"

Body = dict[str, Any] | Sent
# By name: the path, what makes the body, and the statuses of the answer.
WORST: dict[str, tuple[str, Callable[[], Body], tuple[int, ...]]] = {
    # The costliest to decode.
    "32 MB of digits": (CHAT, lambda: Sent(b'{"x":[' + b"1," * 16_000_000 + b"1]}"), (400,)),
    "32 MB of odd floats": (
        CHAT,
        lambda: Sent(b'{"x":[' + b"1.5e300," * 4_000_000 + b"1]}"),
        (400,),
    ),
    "496 kB of odd floats": (CHAT, lambda: Sent(b'{"x":[' + b"1.5e300," * 62_000 + b"1]}"), (400,)),
    "496 kB of lists": (CHAT, lambda: Sent(b'{"x":[' + b"[[]]," * 99_000 + b"1]}"), (400,)),
    "32 MB of escapes": (CHAT, lambda: Sent(b'{"x":"' + b"\\n" * 16_000_000 + b'"}'), (400,)),
    "12 MB of text": (
        COMPLETIONS,
        lambda: {"prompt": "hello world. " * 900_000, "max_tokens": 1},
        (200,),
    ),
    "a picture of 20 MB": (CHAT, _picture, (400,)),
    "a million token ids": (COMPLETIONS, lambda: {"prompt": [151643] * 1_000_000}, (400,)),
    # JSON in texts of JSON.
    "arguments of odd floats": (CHAT, lambda: _calls(_floats(100_000)), (200,)),
    "arguments of many calls": (CHAT, lambda: _calls(_floats(30), 4000), (200,)),
    # Forms.
    "a file of 60 MB": ("/v1/files", lambda: _form(PURPOSE, _file(b"\r\n--" * 15_000_000)), (200,)),
    "three million headers of a part": (
        "/v1/files",
        lambda: _form((b"X: y\r\n" * 3_000_000 + b"Z: z", b"")),
        (413,),
    ),
    "300 000 files": ("/v1/files", lambda: _form(*[_file(b"x")] * 300_000), (413,)),
    "a long form to sign in": ("/signin", lambda: Sent(b"a=b&" * 7_000_000, FORM), (413,)),
    # Long lists of every dialect.
    "16 000 turns": (CHAT, lambda: {"messages": _turns(16_000, "x" * 50), "max_tokens": 1}, (200,)),
    "16 000 turns of Ollama": ("/api/chat", lambda: _ollama(_turns(16_000, "x")), (200,)),
    "16 000 turns of Responses": (
        "/v1/responses",
        lambda: {"input": _turns(16_000, "x" * 100), "max_output_tokens": 16},
        (200,),
    ),
    "16 000 turns of GLM": (
        "/",
        lambda: {"prompt": "x", "history": [["a" * 100, "b" * 100]] * 16_000},
        (200, 400),
    ),
    "16 000 turns of Chatchat": (
        "/chat/chat",
        lambda: {"query": "x", "history": _turns(16_000, "x" * 100)},
        (200,),
    ),
    "16 000 turns to count": (
        "/v1/messages/count_tokens",
        lambda: {"messages": _turns(16_000, "x" * 500)},
        (400,),
    ),
    "a template of 16 000 turns": (
        "/apply-template",
        lambda: {"messages": _turns(16_000, "x" * 1000)},
        (400,),
    ),
    "texts to embed": ("/v1/embeddings", lambda: {"input": [[1] * 400] * 2000}, (502,)),
    "documents to rank": (
        "/v1/rerank",
        lambda: {"query": "x", "documents": ["x" * 30_000] * 1000},
        (400, 502),
    ),
    "a text of 30 MB to tokenize": ("/tokenize", lambda: {"content": "hello " * 5_000_000}, (400,)),
    "a gap of 20 MB": (
        "/infill",
        lambda: {"input_prefix": "x" * 10_000_000, "input_suffix": "y" * 10_000_000},
        (400,),
    ),
    "10 000 pictures": (
        "/api/chat",
        lambda: _ollama([{**SAID[0], "images": [_random(200)] * 10_000}]),
        (400,),
    ),
    # Schemas, grammars, lists.
    "a schema of 8 MB": (CHAT, lambda: _schema({"description": "x" * 8_000_000}), (400,)),
    "200 patterns": (CHAT, _patterns, (400,)),
    "enum of 200 000": (CHAT, lambda: _schema({"enum": [f"v{i}" for i in range(200_000)]}), (400,)),
    "4000 optional alternatives": (
        CHAT,
        lambda: _schema({"type": "string", "pattern": "(a|b)?" * 4000}),
        (200, 400),
    ),
    "a thousand tools": (CHAT, lambda: _tools(1000, _parameters), (200, 400)),
    "grammar": (
        COMPLETIONS,
        lambda: {"prompt": "x", "max_tokens": 1, "grammar": _grammar()},
        (200,),
    ),
    "300 000 messages": (CHAT, lambda: {"messages": SAID * 300_000}, (400,)),
    "a million biases": (
        COMPLETIONS,
        lambda: {"prompt": "x", "logit_bias": dict.fromkeys(map(str, range(10**6)), 1)},
        (400,),
    ),
}


@contextmanager
def served_by(*words: str) -> Iterator[str]:
    """The address of a backend that is a Python program with these arguments."""
    port = held_port()
    command = [sys.executable, *words, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


@pytest.fixture(scope="module")
def stub() -> Iterator[str]:
    """The address of a backend that answers immediately."""
    with served_by("-m", "benchmarks.stub", "--context", "40960") as url:
        yield url


@pytest.mark.parametrize("name", WORST)
def test_worst_request_does_not_block_the_loop(
    name: str, stub: str, module_gateway: StartGateway, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = tmp_path_factory.getbasetemp() / "held"
    gateway = module_gateway("--llama-api", stub, "--chatchat", "--data", str(data))
    route, body, expected = WORST[name]
    sent = body()
    if isinstance(sent, Sent):
        raw, kind = sent
    else:
        raw, kind = json.dumps(sent).encode(), "application/json"

    def work() -> None:
        answer = httpx.post(
            gateway.url + route, content=raw, headers={"Content-Type": kind}, timeout=100
        )
        assert answer.status_code in expected, answer.text[:500]

    work()  # imports and the first prompt are not measured
    assert_loop_stays_free(gateway, work)


CODE = "def total(rows: list[int]) -> int:\n    return sum(rows) + 1  # {or <more>}\n"
TALKS = {"few words": (2_000, "a word " * 280), "short turns": (16_000, "x" * 200)}
TALKS |= {"a program": (100, CODE * 550), "one text": (1, "A word. " * 500_000)}
TALKS |= {
    "parts of marks": (100, "<|im_en |> <| " * 2_800),
    "half a megabyte of marks": (1, "<|" * 250_000),
}


@pytest.fixture(scope="module")
def wide(module_gateway: StartGateway) -> Iterator[Gateway]:
    """A gateway whose backend takes prompts of any length."""
    with served_by("-m", "benchmarks.stub", "--context", f"{1 << 24}") as url:
        yield module_gateway("--llama-api", url)


@pytest.mark.parametrize("name", TALKS)
def test_four_megabytes_hold_the_loop_for_less_than_50_ms(name: str, wide: Gateway) -> None:
    count, text = TALKS[name]
    body = {"messages": _turns(count, text), "max_tokens": 1}
    raw = json.dumps(body | {"temperature": 0}).encode()

    def work() -> None:
        for _ in range(2):  # a first turn, and a next one
            answer = httpx.post(
                wide.url + CHAT,
                content=raw,
                headers={"Content-Type": "application/json"},
                timeout=100,
            )
            assert answer.status_code == 200, answer.text[:500]

    work()  # imports and the first prompt are not measured
    assert_loop_stays_free(wide, work, longest=0.05)


def _words(count: int) -> list[str]:
    source = random.Random(5)
    return [f"{source.getrandbits(64):016x}" for _ in range(count)]


def _references(count: int) -> dict[str, Any]:
    """So many objects, each with lists of the first one or of times, and with the next one."""
    either = {"anyOf": [{"$ref": "#/$defs/a0"}, {"type": "string", "format": "date-time"}]}
    return {
        "$ref": "#/$defs/a0",
        "$defs": {
            f"a{i}": {
                "type": "object",
                "properties": {
                    **{f"p{k}": {"type": "array", "items": either} for k in range(12)},
                    "next": {"$ref": f"#/$defs/a{(i + 1) % count}"},
                },
            }
            for i in range(count)
        },
    }


# As the worst of MaskBench's schemas.
SCHEMAS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "lists of 5 000 names": lambda strict: _schema(
        {
            "type": "object",
            "properties": {
                f"p{i}": {"type": "array", "items": {"enum": _words(5_000)}} for i in range(5)
            },
        },
        strict,
    ),
    "a thousand names, any other name": lambda strict: _schema(
        {
            "type": "object",
            "properties": {name: {} for name in _words(1_000)},
            "additionalProperties": {"type": "string"},
        },
        strict,
    ),
    "long patterns of a length": lambda strict: _schema(
        {
            "type": "object",
            "properties": {
                f"p{i}": {"type": "string", "pattern": f"^([a-z]{{1,{i}}} ?)+$", "maxLength": 3000}
                for i in range(1, 60)
            },
        },
        strict,
    ),
    "a thousand objects": lambda strict: _schema(_references(1_000), strict),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_health_is_answered_in_50_ms_while_the_worst_schemas_are_compiled(
    name: str, stub: str, module_gateway: StartGateway
) -> None:
    """/health does all that /livez does."""
    running = module_gateway("--llama-api", stub)

    def work() -> None:
        for strict in (False, True):
            answer = httpx.post(running.url + CHAT, json=SCHEMAS[name](strict), timeout=60)
            # 429: the machine is too busy for the child to finish in time.
            assert answer.status_code in (200, 400, 429), answer.text[:500]

    assert_loop_stays_free(running, work, "/health", 0.05)


STUB = """
import sys
from benchmarks import stub
stub.TEMPLATE = open(sys.argv.pop(1)).read()
stub.main()
"""
NESTED = "{% set a = [1] %}{% set b = [1] %}" + "{% set a = [a, a] %}{% set b = [b, b] %}" * 34
TEMPLATES = {
    "comparison": NESTED + "{{ a == b }}",
    "constants": "{{ " + "+".join(["a.b[c]"] * 40) + " }}" + "{{ a.b[c] ~ 'x' }}" * 1500,
    "work": "{% for i in range(90000) %}{% if messages[0] == messages %}x{% endif %}{% endfor %}",
    "only sometimes": "{% if messages | length > 1 %}"
    + "{% for i in range(4000) %}{% for j in range(4000) %}{% endfor %}{% endfor %}"
    + "{% endif %}{{ messages[-1].content }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_worst_template_does_not_block_the_loop(
    name: str, gateway: StartGateway, tmp_path: Path
) -> None:
    source = tmp_path / "chat.jinja"
    source.write_text(TEMPLATES[name])
    with served_by("-c", STUB, str(source), "--generation", "2026") as url:
        running = gateway("--llama-api", url)

        def work() -> None:
            for count in (1, 2, 3):
                answer = httpx.post(
                    running.url + "/v1/chat/completions",
                    json={"messages": SAID * count, "max_tokens": 1},
                    timeout=60,
                )
                assert answer.status_code in (200, 400), answer.text[:500]

        assert_loop_stays_free(running, work)


SAYS = """
import sys
from benchmarks import stub
said, usual = open(sys.argv.pop(1), "rb").read(), stub.Stub._answer
def answer(self, client, path, body):
    if b"do your worst" not in body:
        return usual(self, client, path, body)
    client.setblocking(True)
    try:
        client.sendall(stub.STREAM_HEAD + stub.chunked(said) + b"0\\r\\n\\r\\n")
    except OSError:
        pass
stub.Stub._answer = answer
stub.main()
"""
EVENTS = {
    "odd floats": b'data: {"completion_probabilities":[' + b"1.5e300," * 1_900_000 + b"1]}\n\n",
    "lists": b'data: {"completion_probabilities":[' + b"[]," * 5_000_000 + b"1]}\n\n",
    "a long text": b'data: {"content":"' + b"x" * 15_000_000 + b'"}\n\n',
    "no JSON": b'data: {"content":[\xff' + b"1," * 7_000_000 + b"\n\n",
    "small events": b'data: {"content":"","completion_probabilities":[1.5e300]}\n\n' * 250_000,
    "blank lines": b"\n" * 16_000_000 + b'data: {"content":"x","stop":true}\n\n',
    "one line": b"x" * 16_000_000,
}


@pytest.mark.parametrize("name", EVENTS)
def test_worst_backend_does_not_block_the_loop(
    name: str, gateway: StartGateway, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    said.write_bytes(EVENTS[name])
    with served_by("-c", SAYS, str(said)) as url:
        running = gateway("--llama-api", url)

        def work() -> None:
            for stream in (True, False):
                answer = httpx.post(
                    running.url + "/v1/completions",
                    json={"prompt": "do your worst", "max_tokens": 4, "stream": stream},
                    timeout=100,
                )
                assert answer.status_code in (200, 502), answer.text[:500]

        assert_loop_stays_free(running, work)


def _token(alternatives: int) -> bytes:
    """A token of an answer, as a server of 2026 sends it."""
    likely = {"id": 1, "token": " word", "bytes": [*b" word"], "logprob": -1.25}
    token = {**likely, "top_logprobs": [likely] * alternatives}
    event = {"content": " word", "stop": False, "completion_probabilities": [token]}
    return b"data: %b\n\n" % json.dumps(event).encode()


@pytest.mark.parametrize(
    ("path", "alternatives", "asked"),
    [
        ("/completion", 1000, {"n_probs": 1000}),
        (CHAT, 20, {"logprobs": True, "top_logprobs": 20}),
    ],
)
def test_most_alternatives_do_not_block_the_loop(
    path: str,
    alternatives: int,
    asked: dict[str, Any],
    gateway: StartGateway,
    tmp_path: Path,
) -> None:
    said = tmp_path / "said"
    count = MOST_ALTERNATIVES // alternatives
    end = b'data: {"content":"","stop":true,"stop_type":"limit","tokens_predicted":%d}\n\n'
    said.write_bytes(_token(alternatives) * count + end % count)
    with served_by("-c", SAYS, str(said)) as url:
        running = gateway("--llama-api", url)
        # It repeats itself, and would be ended without `ignore_eos`.
        words: dict[str, Any] = {"prompt": "do your worst", "ignore_eos": True}
        if path == CHAT:
            words = {"messages": [{"role": "user", "content": "do your worst"}], "ignore_eos": True}
        body = {"max_tokens": count, "n_predict": count, **words, **asked}

        def work() -> None:
            for stream in (True, False):
                whole = body | {"stream": stream}
                answer = httpx.post(running.url + path, json=whole, timeout=100)
                assert answer.status_code == 200, answer.text[:500]
                assert len(answer.content) > 40 * MOST_ALTERNATIVES

        assert_loop_stays_free(running, work)


@pytest.mark.parametrize("form", [False, True], ids=["JSON", "a form"])
def test_large_forwarded_request_does_not_block_the_loop(form: bool, serve: StartGateway) -> None:
    command = [sys.executable, str(OTHER_SERVER), "${PORT}"]
    gateway = serve(f'[[model]]\nname = "m"\nkind = "http"\ncommand = {json.dumps(command)}\n')
    picture = random.Random(1).randbytes(20 << 20)
    body = {"model": "m", "image": base64.b64encode(picture).decode()}

    def work() -> None:
        url = f"{gateway.url}/v1/images/edits"
        if form:
            answer = httpx.post(url, data={"model": "m"}, files={"image": picture}, timeout=100)
        else:
            answer = httpx.post(url, json=body, timeout=100)
        assert answer.json()["size"] > len(picture)

    work()  # the load is not measured
    assert_loop_stays_free(gateway, work)
