"""The words of people reach the model as they were written, byte for byte: from every API, to every
kind of backend, inside the rendered prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from proxy.backends.driver import Capabilities
from tests.fakes import CAPS, ScriptedDriver, make_app

CORPUS = {
    "a question about a time": "What is 12:34:56 in seconds?",
    "subtitles": "1\n00:01:02,345 --> 00:01:05,678\nHello there.\n\n2\n00:01:06,000 -->",
    "a log": "2026-11-24T23:59:59.999Z [warn] 10:00:00 GET /a?b=c&d 500 1.5s cch=0a1b2c3d;",
    "a command": 'ffmpeg -ss 00:00:30.500 -to 00:01:00 -i "in file.mp4" -vf "crop=1:2:3:4" o.mp4',
    "an attribution line": "x-anthropic-billing-header: cc_version=1.0.0; cch=abcdef12;",
    "code": 'def f(x):\n\tif x < 3 and x > 1:\n\t\treturn f"{x!r:>{10}}"  # {{ }} {% if %}\n\n\n',
    "hashes": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 md5 d41d8",
    "dates": "Today's date is 2026-11-24, 24/11/26, Tue 24 Nov 2026 20:37:19 GMT+1.",
    "markup": "<b>&amp;</b> <!-- c --> [x](y) **z** $$\\frac{1}{2}$$ `q` ```py\n1\n```",
    "spaces": "a  b\u00a0c\u2003d\u3000e\u200bf\u2060g\ufeffh \t i\r\nj\rk",
    "controls": "".join(map(chr, (*range(1, 32), *range(127, 160)))) + "end",
    "formats": "soft\u00adhyphen\u200d\u200c \u2028line\u2029paragraph \u061cx\ufffb\ufff9",
    "right to left": "\u202bשלום עולם\u202c and \u2067مرحبا\u2069 mixed 123",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 é 𝔘𝔫𝔦 \U0010fffd \ufdd0 \ue000",
    "escapes": "\\n \\u0000 \\x00 %s %d {0} $(id) \"quoted\" 'single' \\\\",
}

Body = Callable[[str], dict[str, Any]]
APIS: dict[str, tuple[str, Body]] = {
    "chat completions": (
        "/v1/chat/completions",
        lambda text: {
            "messages": [
                {"role": "system", "content": f"s{text}s"},
                {"role": "user", "content": f"u{text}u"},
                {"role": "assistant", "content": f"a{text}a"},
                {"role": "user", "content": [{"type": "text", "text": f"p{text}p"}]},
            ]
        },
    ),
    "responses": (
        "/v1/responses",
        lambda text: {
            "instructions": f"s{text}s",
            "input": [
                {"role": "user", "content": f"u{text}u"},
                {"role": "assistant", "content": f"a{text}a"},
                {"role": "user", "content": [{"type": "input_text", "text": f"p{text}p"}]},
            ],
        },
    ),
    "messages": (
        "/v1/messages",
        lambda text: {
            "max_tokens": 5,
            "system": f"s{text}s",
            "messages": [
                {"role": "user", "content": f"u{text}u"},
                {"role": "assistant", "content": f"a{text}a"},
                {"role": "user", "content": [{"type": "text", "text": f"p{text}p"}]},
            ],
        },
    ),
    "ollama": (
        "/api/chat",
        lambda text: {
            "stream": False,
            "messages": [
                {"role": "system", "content": f"s{text}s"},
                {"role": "user", "content": f"u{text}u"},
                {"role": "assistant", "content": f"a{text}a"},
                {"role": "user", "content": f"p{text}p"},
            ],
        },
    ),
    "glm": ("/chat", lambda text: {"prompt": f"p{text}p", "history": [[f"u{text}u", f"a{text}a"]]}),
    "completions": ("/v1/completions", lambda text: {"prompt": f"u{text}u p{text}p a{text}a"}),
    "infill": ("/infill", lambda text: {"input_prefix": f"u{text}u", "input_suffix": f"p{text}p"}),
}
KINDS: dict[str, Capabilities] = {
    "2023": CAPS,
    "llama-server": msgspec.structs.replace(CAPS, dialect="llama-server", modern_sampling=True),
    "its own template": msgspec.structs.replace(CAPS, dialect="openai", native=True),
}
WITHOUT_SYSTEM = ("glm", "completions", "infill")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("api", APIS)
def test_words_arrive_as_they_were_written(api: str, kind: Capabilities) -> None:
    path, body = APIS[api]
    caps = msgspec.structs.replace(kind, infill=True, n_ctx=100_000)
    driver = ScriptedDriver(caps=caps)
    client = make_app(driver, chat_template="chatml").test_client()
    sides = "up" if api == "infill" else "uap" if api in WITHOUT_SYSTEM else "suap"
    for name, text in CORPUS.items():
        answer = client.post(path, json=body(text))
        assert answer.status_code == 200, (name, answer.get_data(as_text=True))
        task = driver.tasks.pop()
        assert not driver.tasks
        written = [str(task.prompt), task.suffix or ""]
        if task.backend_templates:
            written += [message.content for message in task.messages or task.request.messages]
        for side in sides:
            assert any(f"{side}{text}{side}" in part for part in written), (name, side, written)


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_tools_stay_as_and_where_the_client_put_them(choice: str) -> None:
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
        for name in ("zebra", "apple", "mango")
    ]
    driver = ScriptedDriver(caps=msgspec.structs.replace(CAPS, n_ctx=100_000))
    client = make_app(driver, chat_template="hermes").test_client()
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": tools, "tool_choice": choice}
    assert client.post("/v1/chat/completions", json=body).status_code == 200
    prompt = str(driver.tasks[0].prompt)
    assert 0 < prompt.find("zebra") < prompt.find("apple") < prompt.find("mango")
