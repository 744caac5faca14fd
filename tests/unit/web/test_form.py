"""Reading an uploaded form."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder

from proxy.errors import BadRequest, BodyTooLarge
from proxy.web.body import Unnamed
from proxy.web.form import MultipartForm, read_form


def read(limit: int = 10_000, **request: Any) -> MultipartForm:
    return read_form(EnvironBuilder(method="POST", **request).get_environ(), limit, limit)


def test_form_fields_and_files_keep_their_order() -> None:
    data = {"a": "1", "files": [(BytesIO(b"one"), "一.txt"), (BytesIO(b"two"), "../../two")]}
    form = read(data=data)
    assert form.fields == {"a": "1"}
    with form:
        assert [(f.field, f.name, f.data.read()) for f in form.files] == [
            ("files", "一.txt", b"one"),
            ("files", "../../two", b"two"),
        ]
    assert all(f.data.closed for f in form.files)


def test_form_files_and_fields_have_separate_bounds() -> None:
    def both(documents: int, fields: int) -> MultipartForm:
        data = {"a": "x" * 10, "file": (BytesIO(b"x" * 5000), "a.txt")}
        environ = EnvironBuilder(method="POST", data=data).get_environ()
        return read_form(environ, documents, fields)

    with both(5000, 10) as form:
        assert len(form.files[0].data.read()) == 5000
    for bounds in ((4999, 10), (5000, 9)):
        with pytest.raises(BodyTooLarge):
            both(*bounds)


def part(disposition: str, data: bytes) -> dict[str, Any]:
    """The bytes of a form with one part."""
    head = f"--x\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode()
    body = head + data + b"\r\n--x--\r\n"
    return {"data": body, "content_type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    "body",
    [
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ncut off',
        b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\na\r\n'
        b"--x\r\nb: c\r\n\r\n",
        b"no form at all",
        b"--x\r\nbroken",
    ],
)
def test_broken_form_is_refused_and_its_files_are_closed(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Unnamed] = []

    def place() -> Unnamed:
        opened.append(Unnamed())
        return opened[-1]

    monkeypatch.setattr("proxy.web.form.Unnamed", place)
    with pytest.raises(BadRequest, match="malformed form"):
        read(data=body, content_type="multipart/form-data; boundary=x")
    assert all(file.closed for file in opened)


def test_repeated_fields_are_kept_in_order() -> None:
    with read(data={"a": ["1", "2"], "b": "3", "file": (BytesIO(b"x"), "x.txt")}) as form:
        assert sorted(form.values) == [("a", "1"), ("a", "2"), ("b", "3")]
        assert form.fields == {"a": "1", "b": "3"}


def test_form_without_boundary_is_refused() -> None:
    with pytest.raises(BadRequest, match="malformed form"):
        read(data=b"x", content_type="multipart/form-data")


def test_large_field_within_bound_is_accepted() -> None:
    form = read(1_000_000, **part('name="docs"', b"x" * 700_000))
    assert len(form.fields["docs"]) == 700_000


@pytest.mark.parametrize("name", ["a\u202eb", "x" * 256, " "])
def test_invalid_field_name_is_refused(name: str) -> None:
    with pytest.raises(BadRequest):
        read(data={"files": (BytesIO(b"x"), name)})


def test_non_form_body_has_no_fields() -> None:
    assert read(data=b"{}", content_type="application/json") == MultipartForm([], ())


def test_first_value_of_a_plain_field_counts() -> None:
    kind = "application/x-www-form-urlencoded"
    form = read(data=b"a=1&b=%20&a=2", content_type=kind)
    assert form == MultipartForm([("a", "1"), ("b", " ")], ())
