"""Messages whose contents have parts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.apis.openai import chat as openai_chat
from proxy.core.conversation import joined
from proxy.core.request import Media, Message

URL = "data:image/png;base64,AAAA"
TEXT = st.builds(lambda text: {"type": "text", "text": text}, st.text("ab\n", min_size=1))
IMAGE = st.just({"type": "image_url", "image_url": {"url": URL}})


def _message(*content: Any) -> Message:
    (message,) = openai_chat.messages([{"role": "user", "content": list(content)}])
    return message


def _sent(message: Message) -> list[Any]:
    return [
        {"type": "text", "text": piece}
        if isinstance(piece, str)
        else {"type": "image_url", "image_url": {"url": piece.url}}
        for piece in message.pieces
    ]


@given(st.lists(TEXT | IMAGE, max_size=6))
def test_parts_come_back_as_the_client_sent_them(parts: list[Any]) -> None:
    message = _message(*parts)
    assert _sent(message) == parts
    assert message.content == "\n".join(part["text"] for part in parts if "text" in part)


@given(st.lists(TEXT | IMAGE, max_size=4), st.lists(TEXT | IMAGE, max_size=4))
def test_joined_messages_have_the_parts_of_both(first: list[Any], second: list[Any]) -> None:
    both = joined(_message(*first), _message(*second))
    texts = [part["text"] for part in first + second if "text" in part]
    assert both.content == "\n".join(texts)
    if both.parts:
        assert [part["text"] for part in _sent(both) if "text" in part] == texts


@pytest.mark.parametrize(
    "parts", [("one", "two"), ("one",), ("one", Media(kind="image", url=URL), "two")]
)
def test_lead_belongs_to_the_first_text(parts: tuple[Any, ...]) -> None:
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": URL}}
        for part in parts
    ]
    first, *rest = _sent(_message(*content).after("Lead: "))
    assert (first["text"], rest) == ("Lead: one", content[1:])
