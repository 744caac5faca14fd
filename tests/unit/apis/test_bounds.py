"""Each bound on the contents of a body, at its limit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.apis import anthropic, fields
from proxy.apis.anthropic import web_search
from proxy.apis.chatchat import bodies as chatchat
from proxy.apis.embeddings import request as embeddings
from proxy.apis.embeddings.request import MAX_DOCUMENTS, parse_ranking
from proxy.apis.fields import MAX_ITEMS
from proxy.apis.glm import chat as glm
from proxy.apis.llamacpp import native
from proxy.apis.ollama import dialects as ollama
from proxy.apis.openai import answer as openai
from proxy.apis.openai import chat as openai_chat
from proxy.apis.openai import completions as texts
from proxy.apis.openai import tools as openai_tools
from proxy.apis.responses import mcp
from proxy.apis.responses import request as responses
from proxy.apis.vector_stores import request as stores
from proxy.apis.vector_stores.request import MOST_COMPARISONS, parse_filters
from proxy.core import sampling
from proxy.core.decoding import LONGEST, PIECE, SHORT, decoding_cost, is_clearly_cheap
from proxy.core.sampling import MAX_BIASES, check, logit_bias
from proxy.errors import BadRequest, InvalidParameter
from proxy.web.body import check_cost

SAID = {"role": "user", "content": "x"}
Parse = Callable[[dict[str, Any]], Any]
DIALECTS: dict[str, tuple[Parse, str, dict[str, Any]]] = {
    "openai": (openai_chat.parse, "messages", {}),
    "anthropic": (anthropic.parse, "messages", {"max_tokens": 1}),
    "ollama": (ollama.chat.parse, "messages", {}),
    "responses": (responses.parse, "input", {}),
}


@pytest.mark.parametrize("name", ["anthropic", "responses"])
def test_many_messages_of_one_role_are_joined_in_linear_time(name: str) -> None:
    """Quadratic copying took ten seconds for 16 000 messages of 600 bytes."""
    parse, field, more = DIALECTS[name]
    said = [{"role": "assistant", "content": "x" * 600}] * 16_000
    began = time.process_time()
    request = parse({field: [SAID, *said], **more})
    assert time.process_time() - began < 2
    request = getattr(request, "request", request)
    assert len(request.messages) == 2
    assert len(request.messages[1].content) == 16_000 * 601 - 1


def test_images_between_texts_keep_their_position() -> None:
    text = {"type": "text", "text": "ab"}
    image = {"type": "image", "source": {"type": "url", "url": "http://x/y"}}
    said = [
        {"role": "user", "content": [image, text, image, text, image]},
        {"role": "user", "content": [text, image]},
    ]
    (message,) = anthropic.parse({"messages": said, "max_tokens": 1}).messages
    assert message.content == "ab\nab\nab"
    assert [part.at for part in message.media] == [0, 2, 5, 8]


@pytest.mark.parametrize(
    ("unit", "count"),
    [
        (b'{"a":1}', 131_072),
        (b"[]", 262_144),
        (b'"a"', 400_000),
        (b"151643", 1_500_000),
        (b"0.12345678901234567", 120_000),
        (b"1.5e300", 63_000),
        (b"1" * 4000, 900),
        (b'"' + b"\\n" * 100 + b'"', 100_000),
    ],
)
def test_body_expensive_to_decode_is_refused(unit: bytes, count: int) -> None:
    check_cost(b"[" + b",".join([unit] * (count // 2)) + b"]")
    with pytest.raises(BadRequest, match="too long to decode"):
        check_cost(b"[" + b",".join([unit] * count) + b"]")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.lists(VALUES, min_size=1), st.booleans())
@example([-0.12345678901234567], True)
@example([1.2345678901234567e-300], True)
@example([9**99], True)
def test_text_is_never_called_cheaper_than_it_is(values: list[Any], ascii_only: bool) -> None:
    item = json.dumps(values, ensure_ascii=ascii_only).encode("utf-8", "replace")
    text = b"[" + b",".join([item] * (SHORT // len(item) + 2)) + b"]"
    assert not is_clearly_cheap(text, decoding_cost(text, 10**12) - 1)


def test_conversation_about_a_program_is_clearly_cheap() -> None:
    program = "def total(rows: list[int]) -> int:\n    return sum(rows) + 1  # {or more}\n"
    messages = [{"role": "user", "content": f"{program * 20}{number}"} for number in range(300)]
    body = json.dumps({"messages": messages}).encode()
    assert len(body) > 400_000 and is_clearly_cheap(body)


@pytest.mark.parametrize(
    ("piece", "count"),
    [
        (b"iVBORw0K", 4_000_000),
        (b"Hello, world: {that is}, [all]. ", 1_000_000),
        (b'function(){return {\\"a\\":[1,2]}}\\n', 800_000),
        (b"\\u4e00", 2_500_000),
        ("\u4e00\u4e8c".encode(), 2_500_000),
    ],
    ids=["picture", "text", "program", "escapes", "chinese"],
)
def test_single_long_text_is_accepted(piece: bytes, count: int) -> None:
    check_cost(b'{"prompt":"' + piece * count + b'","ids":[' + b"1,\n" * 1000 + b"1]}")


def test_decoding_estimate_handles_strings_across_pieces() -> None:
    head, tail = b'{"a":"', b'\\\\\\"{{{[[[,,,","b":[1,2]}'
    for at in range(PIECE - len(tail) - len(head), PIECE):
        text = head + b"x" * at + tail
        assert abs(decoding_cost(text, LONGEST) - decoding_cost(head + tail, LONGEST)) < 5


CHAT = {"messages": [SAID]}
FILES = [f"file-{i}" for i in range(stores.MOST_FILES + 1)]
COMPARED = {"type": "eq", "key": "k", "value": 1}
EXTRA = {"filename": "a", "text": "b"}
CALL = {"function": {"name": "f", "arguments": {}}}


def chat(**body: Any) -> Any:
    return openai_chat.parse({**CHAT, **body})


def tools(n: int) -> list[Any]:
    return [{"type": "function", "function": {"name": f"f{i}"}} for i in range(n)]


def calls(n: int) -> Any:
    said = {"role": "assistant", "content": "", "tool_calls": [CALL] * n}
    return ollama.chat.parse({"messages": [SAID, said]})


def search(**body: Any) -> Any:
    return stores.parse_search({"query": "x", **body})


def said(name: str, n: int) -> Any:
    parse, field, more = DIALECTS[name]
    return parse({field: [SAID] * n, **more})


def in_parts(name: str, n: int) -> Any:
    parse, field, more = DIALECTS[name]
    part = {"type": "input_text" if name == "responses" else "text", "text": "x"}
    return parse({field: [{"role": "user", "content": [part] * n}], **more})


def servers(field: str, n: int) -> list[Any]:
    kind = "mcp" if field == "server_label" else "url"
    return [{"type": kind, field: f"s{i}"} for i in range(n)]


def approved(n: int) -> list[Any]:
    call = {"server_label": "far", "name": "get", "arguments": "{}"}
    requests = [{"type": "mcp_approval_request", "id": f"a{i}", **call} for i in range(n)]
    answer = {"type": "mcp_approval_response", "approve": True}
    return requests + [{**answer, "approval_request_id": f"a{i}"} for i in range(n)]


def searching(domains: list[str]) -> Any:
    tool = {"type": "web_search_20250305", "allowed_domains": domains}
    return anthropic.parse({**CHAT, "max_tokens": 1, "tools": [tool]})


REMOTE = {"type": "mcp", "server_label": "far", "server_url": "https://mcp.example/a"}
MODELS: dict[str, tuple[Parse, dict[str, Any]]] = {
    "openai": (openai_chat.parse, CHAT),
    "completions": (texts.parse, {"prompt": "p"}),
    "responses": (responses.parse, {"input": "p"}),
    "anthropic": (anthropic.parse, {**CHAT, "max_tokens": 1}),
    "ollama": (ollama.chat.parse, CHAT),
    "glm": (glm.parse, {"prompt": "p"}),
    "embeddings": (embeddings.parse, {"input": "p"}),
}
# A function that parses a body with n of these, and the allowed number.
COUNTED: dict[str, tuple[Callable[[int], Any], int]] = {
    **{f"messages ({name})": (partial(said, name), MAX_ITEMS) for name in DIALECTS},
    **{
        f"parts of a message ({name})": (partial(in_parts, name), MAX_ITEMS)
        for name in ("openai", "anthropic", "responses")
    },
    "domains of a web search": (lambda n: searching(["a.example"] * n), web_search.MOST_SITES),
    "length of a domain": (
        lambda n: searching(["a" * n]),
        web_search.LONGEST_SITE,
    ),
    "biases": (lambda n: logit_bias({str(i): 1 for i in range(n)}), MAX_BIASES),
    "biases in pairs": (lambda n: logit_bias([[1, 1]] * n), MAX_BIASES),
    "strings of a sampler": (lambda n: check("samplers", ["top_k"] * n), sampling.MAX_STRINGS),
    "choices": (lambda n: chat(n=n), openai.MAX_CHOICES),
    "logprobs": (lambda n: chat(logprobs=True, top_logprobs=n), openai.MAX_LOGPROBS),
    "tools": (lambda n: chat(tools=tools(n)), openai_tools.MAX_TOOLS),
    "stops": (lambda n: chat(stop=[f"{i}" for i in range(n)]), fields.MAX_STOPS),
    "characters of a stop": (lambda n: chat(stop="x" * n), fields.MAX_STOP_LENGTH),
    "tokens of an answer": (lambda n: chat(max_tokens=n), openai.MAX_TOKENS),
    "prompts": (lambda n: texts.parse({"prompt": ["x"] * n}), texts.MAX_PROMPTS),
    "texts beside token ids": (
        lambda n: texts.parse({"prompt": [[1, *["x"] * n]]}),
        texts.MAX_TEXTS,
    ),
    "texts to embed": (lambda n: embeddings.parse({"input": ["x"] * n}), embeddings.MAX_INPUTS),
    "dimensions of a vector": (
        lambda n: embeddings.parse({"input": "x", "dimensions": n}),
        embeddings.MAX_DIMENSIONS,
    ),
    "documents to rank": (
        lambda n: parse_ranking({"query": "x", "documents": ["x"] * n}),
        MAX_DOCUMENTS,
    ),
    "files of a batch": (lambda n: stores.parse_batch({"file_ids": FILES[:n]}), stores.MOST_FILES),
    "questions of a search": (lambda n: search(query=["x"] * n), stores.MOST_QUERIES),
    "results of a search": (lambda n: search(max_num_results=n), stores.MOST_RESULTS),
    "filters joined": (
        lambda n: parse_filters({"type": "and", "filters": [COMPARED] * n}),
        MOST_COMPARISONS,
    ),
    "characters of a vector store's name": (
        lambda n: stores.parse_create({"name": "x" * n}),
        stores.LONGEST_NAME,
    ),
    "pairs of a vector store's metadata": (
        lambda n: stores.parse_create({"metadata": {f"k{i}": "v" for i in range(n)}}),
        stores.MOST_PAIRS,
    ),
    "characters of a value of metadata": (
        lambda n: stores.parse_create({"metadata": {"k": "v" * n}}),
        stores.LONGEST_VALUE,
    ),
    "files beside an infill": (
        lambda n: native.parse_infill({"input_prefix": "x", "input_extra": [EXTRA] * n}),
        native.MAX_EXTRA,
    ),
    "probabilities of a token (native)": (
        lambda n: native.parse({"prompt": "x", "n_probs": n}),
        native.MAX_PROBS,
    ),
    "texts with a bias": (
        lambda n: logit_bias({f"t{i}": 1 for i in range(n)}),
        sampling.MAX_BIASED_TEXTS,
    ),
    "characters of a text with a bias": (
        lambda n: logit_bias({"x" * n: 1}),
        sampling.MAX_BIASED_TEXT,
    ),
    "characters of a base's name (Chatchat)": (
        lambda n: chatchat.BASE.parse({"knowledge_base_name": "x" * n}),
        chatchat.MAX_NAME,
    ),
    "hits of a knowledge base": (
        lambda n: chatchat.BODIES["ChatchatSearch"].parse({"knowledge_base_name": "b", "top_k": n}),
        chatchat.MOST_HITS,
    ),
    "calls without a result": (calls, ollama.MAX_WAITING),
    **{
        f"characters of a model's name ({name})": (
            lambda n, parse=parse, body=body: parse({**body, "model": "m" * n}),  # type: ignore[misc]
            fields.MAX_MODEL,
        )
        for name, (parse, body) in MODELS.items()
    },
    "MCP servers": (
        lambda n: responses.parse({"input": "x", "tools": servers("server_label", n)}),
        mcp.MOST_SERVERS,
    ),
    "MCP servers (anthropic)": (
        lambda n: anthropic.parse({**CHAT, "max_tokens": 1, "mcp_servers": servers("name", n)}),
        mcp.MOST_SERVERS,
    ),
    "headers of an MCP server": (
        lambda n: mcp.server({**REMOTE, "headers": {f"X-{i}": "" for i in range(n)}}, ""),
        mcp.MOST_HEADERS,
    ),
    "characters of a header of an MCP server": (
        lambda n: mcp.server({**REMOTE, "headers": {"X": "x" * n}}, ""),
        mcp.LONGEST_HEADER,
    ),
    "characters of a token of an MCP server": (
        lambda n: mcp.authorization({"token": "t" * n}, "token", "", "https://mcp.example/a"),
        mcp.LONGEST_HEADER,
    ),
    "approved calls": (
        lambda n: responses.parse({"input": approved(n), "tools": [REMOTE]}),
        mcp.MOST_APPROVED,
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_number_is_bounded(name: str) -> None:
    parse, most = COUNTED[name]
    parse(most)
    with pytest.raises(InvalidParameter):
        parse(most + 1)
