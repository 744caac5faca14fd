"""Bodies of forwarded requests, as a server gets them."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder

from proxy.apis.fields import MAX_MODEL
from proxy.apis.media.routes import FormBody, JSONBody, read_raw, sent_headers
from proxy.core.task import CallBody
from proxy.errors import BadRequest, BodyTooLarge, InvalidParameter
from proxy.web.form import MultipartForm, read_form


def form_of(**data: Any) -> FormBody:
    environ = EnvironBuilder(method="POST", data=data).get_environ()
    return FormBody(read_form(environ, 10_000, 10_000))


def whole(body: CallBody) -> bytes:
    data = b"".join(body.parts)
    assert len(data) == body.size
    assert b"".join(body.parts) == data  # it can be sent again
    return data


@pytest.fixture
def sound() -> Iterator[tuple[BytesIO, str]]:
    yield BytesIO(b"RIFF" * 100), "a b.wav"


def test_form_has_the_servers_name_for_the_model_once(sound: tuple[BytesIO, str]) -> None:
    body = form_of(model=["m", "other"], x=["1", "2"], file=sound)
    assert body.model == "m"
    data = whole(body.named("theirs"))
    assert data.count(b'name="model"\r\n\r\ntheirs\r\n') == data.count(b'name="model"') == 1
    assert data.count(b'name="x"') == 2
    assert b'name="file"; filename="a b.wav"\r\nContent-Type: audio/' in data
    assert b'name="model"\r\n\r\nm\r\n' in whole(body.named(""))
    for file in body._form.files:
        file.data.close()


def test_name_of_a_part_adds_no_header() -> None:
    hostile = FormBody(MultipartForm([('a"; b="c', "1")], ()))
    assert b'name="a%22; b=%22c"\r\n\r\n1' in whole(hostile.named(""))
    with pytest.raises(BadRequest):
        FormBody(MultipartForm([("a\r\nB: c", "1")], ())).named("")
    with pytest.raises(BadRequest, match="backslash"):  # servers differ in its meaning
        FormBody(MultipartForm([('a\\"; name=model; x="', "1")], ())).named("")


def test_json_has_the_servers_name_for_the_model() -> None:
    body = JSONBody({"model": "m", "input": "é"})
    assert whole(body.named("theirs")) == '{"model":"theirs","input":"é"}'.encode()
    assert whole(body.named("")) == '{"model":"m","input":"é"}'.encode()


@pytest.mark.parametrize("model", [1, "x" * (MAX_MODEL + 1)])
def test_invalid_model_is_refused(model: object) -> None:
    assert JSONBody({"model": "x" * MAX_MODEL}).model
    with pytest.raises(InvalidParameter):
        JSONBody({"model": model})


def test_raw_body_is_bounded() -> None:
    environ = EnvironBuilder(method="POST", data=b"x" * 11).get_environ()
    with pytest.raises(BodyTooLarge), read_raw(environ, 10):
        pass
    with read_raw(EnvironBuilder().get_environ(), 10) as body:
        assert body is None


def test_only_harmless_headers_are_sent() -> None:
    headers: Any = {
        "Accept": "audio/wav",
        "Authorization": "Bearer k",
        "Connection": "close, X-A",
        "Cookie": "a=b",
        "Forwarded": "for=1.2.3.4",
        "Range": "bytes=0-1\x00",
        "X-A": "b",
    }
    assert sent_headers(EnvironBuilder(headers=headers).get_environ()) == {"Accept": "audio/wav"}
