"""Bounds on forms, headers and small tables of the web side, each at its edge."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder

from proxy.errors import BadRequest, BodyTooLarge
from proxy.web.form import MAX_NAME, MAX_PARTS, Form, read_form


def form(data: Any) -> Form:
    return read_form(EnvironBuilder(method="POST", data=data).get_environ(), 1 << 20, 1 << 20)


def test_parts_of_a_form() -> None:
    with form({f"f{i}": "x" for i in range(MAX_PARTS)}) as read:
        assert len(read.fields) == MAX_PARTS
    with pytest.raises(BodyTooLarge):
        form({f"f{i}": "x" for i in range(MAX_PARTS + 1)})


def test_name_of_a_file() -> None:
    with form({"file": (BytesIO(b"x"), "x" * MAX_NAME)}) as read:
        assert read.files[0].name == "x" * MAX_NAME
    with pytest.raises(BadRequest, match=f"up to {MAX_NAME}"):
        form({"file": (BytesIO(b"x"), "x" * (MAX_NAME + 1))})
