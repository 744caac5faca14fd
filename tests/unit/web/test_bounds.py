"""Each bound on forms, headers and small tables of the web layer, at its limit."""

from __future__ import annotations

import time
from io import BytesIO
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder

from proxy.apis.openai.routes import MOST_PIECES
from proxy.errors import BadRequest, BodyTooLarge
from proxy.gateway.gateway import MOST_WITH_PIECES
from proxy.web import body, client_address
from proxy.web.auth import MOST_SEEN, WrongKeyLimiter
from proxy.web.client_address import TrustedProxies
from proxy.web.form import (
    FRAME,
    MAX_HEAD,
    MAX_NAME,
    MAX_PARTS,
    MAX_PLAIN,
    PIECE,
    MultipartForm,
    read_form,
)
from tests.fakes import ScriptedDriver, make_app


def form(data: Any, kind: str = "multipart/form-data", **environ: str) -> MultipartForm:
    builder = EnvironBuilder(method="POST", data=data, content_type=kind)
    return read_form(builder.get_environ() | environ, 4000, 4000)


def test_number_of_form_parts_is_bounded() -> None:
    with form({f"f{i}": "x" for i in range(MAX_PARTS)}) as read:
        assert len(read.fields) == MAX_PARTS
    with pytest.raises(BodyTooLarge):
        form({f"f{i}": "x" for i in range(MAX_PARTS + 1)})


def urlencoded(data: bytes) -> MultipartForm:
    kind = "application/x-www-form-urlencoded"
    builder = EnvironBuilder(method="POST", data=data, content_type=kind)
    return read_form(builder.get_environ(), 64 << 20, 32 << 20)


def test_size_of_form_without_files_is_bounded() -> None:
    """Twenty megabytes of short fields blocked the loop for five seconds."""
    assert len(urlencoded(b"&".join(b"f%d=" % i for i in range(MAX_PARTS))).fields) == MAX_PARTS
    with pytest.raises(BadRequest):
        urlencoded(b"&".join([b"a=1"] * (MAX_PARTS + 1)))
    assert len(urlencoded(b"a=" + b"x" * (MAX_PLAIN - 2)).fields["a"]) == MAX_PLAIN - 2
    with pytest.raises(BodyTooLarge):
        urlencoded(b"a=" + b"x" * (MAX_PLAIN - 1))
    long = b"a=1&" * (5 << 20)
    began = time.thread_time()
    with pytest.raises(BodyTooLarge):
        urlencoded(long)
    assert time.thread_time() - began < 0.5


def test_part_headers_are_bounded() -> None:
    def read(size: int) -> MultipartForm:
        head = b'--x\r\nContent-Disposition: form-data; name="a"\r\nX: ' + b"x" * size
        return form(head + b"\r\n\r\nyes\r\n--x--\r\n", "multipart/form-data; boundary=x")

    assert read(MAX_HEAD - 100).fields == {"a": "yes"}
    with pytest.raises(BodyTooLarge):
        read(MAX_HEAD + 2 * PIECE)  # it is checked with every read
    with pytest.raises(BodyTooLarge):  # the line of a boundary
        form(b"--x" + b" " * 2_000_000 + b"\r\n", "multipart/form-data; boundary=x")


def test_file_name_length_is_bounded() -> None:
    with form({"file": (BytesIO(b"x"), "x" * MAX_NAME)}) as read:
        assert read.files[0].name == "x" * MAX_NAME
    with pytest.raises(BadRequest, match=f"1 to {MAX_NAME}"):
        form({"file": (BytesIO(b"x"), "x" * (MAX_NAME + 1))})


def test_bytes_around_form_parts_are_bounded() -> None:
    """Boundaries and part headers; Content-Length decides before anything is read."""

    def read(length: int) -> MultipartForm:
        return form({"file": (BytesIO(b"x"), "a")}, CONTENT_LENGTH=str(length))

    with pytest.raises(BodyTooLarge):
        read(2 * 4000 + FRAME + 1)
    with pytest.raises(BadRequest, match="ended early") as refused:  # refused, but not for its size
        read(2 * 4000 + FRAME)
    assert not isinstance(refused.value, BodyTooLarge)


def test_number_of_remembered_right_keys_is_bounded() -> None:
    limiter = WrongKeyLimiter(20, clock=lambda: 0.0)
    for number in range(MOST_SEEN + 1):
        limiter.count_right(f"address {number}", "ann")
        assert len(limiter.seen) <= MOST_SEEN
    assert ("address 0", "ann") not in limiter.seen and ("address 1", "ann") in limiter.seen


def test_length_of_forwarded_header_is_bounded() -> None:
    proxies = TrustedProxies(("10.0.0.0/8",))
    near = ", 10.0.0.1" * 9

    def client(size: int) -> str:
        chain = "192.0.2.7" + " " * (size - len(near) - 9) + near
        return proxies.client({"REMOTE_ADDR": "10.0.0.2", "HTTP_X_FORWARDED_FOR": chain})

    assert client(client_address.LONGEST) == "192.0.2.7"
    assert client(client_address.LONGEST + 1) != "192.0.2.7"  # its first character is not read


def test_text_tokenized_with_pieces_is_bounded() -> None:
    api = make_app(ScriptedDriver()).test_client()
    for size, why in ((0, "does not report"), (1, "split the text")):
        request = {"content": "a" * (MOST_WITH_PIECES + size), "with_pieces": True}
        answer = api.post("/tokenize", json=request)
        assert answer.status_code == 400 and why in answer.text


def test_number_of_tokens_with_pieces_is_bounded() -> None:
    api = make_app(ScriptedDriver()).test_client()
    for size in (MOST_PIECES, MOST_PIECES + 1):
        request = {"prompt": "a" * size, "max_length": 10 * MOST_PIECES}
        reply = api.post("/tokenize", json=request).json
        assert reply is not None and len(reply["tokens"]) == MOST_PIECES


@pytest.mark.parametrize(
    ("size", "messages", "in_thread"),
    [
        (body.LARGE - 1, body.MANY, False),
        (body.LARGE, body.MANY - 1, False),
        (body.LARGE, body.MANY, True),
        (2 * body.LARGE, 1, True),
    ],
)
def test_large_bodies_of_many_messages_are_parsed_beside_the_loop(
    size: int, messages: int, in_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "run_in_native_thread", lambda parse: (parse(), "in a thread"))
    value: dict[str, Any] = {"messages": [{}] * messages}
    parsed: Any = body.parsed(lambda: "parsed", {"CONTENT_LENGTH": str(size)}, value)
    assert parsed == (("parsed", "in a thread") if in_thread else "parsed")
