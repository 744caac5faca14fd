"""Where the lines of the access log go."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from proxy.web.observe import Lines, access, tell


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """The only handler there is, as a gateway sets it up."""
    only = Lines()
    only.setStream(io.StringIO())
    monkeypatch.setattr(logging.root, "handlers", [only])
    before = access.level
    access.setLevel(logging.INFO)  # which forgets what it knew of the levels, as setattr does not
    yield only
    access.setLevel(before)


def test_a_line_goes_to_the_stream_as_it_is(lines: Lines) -> None:
    tell('{"id":"%s"}')
    assert lines.stream.getvalue() == '{"id":"%s"}\n'


def test_another_handler_gets_a_record(lines: Lines) -> None:
    records: list[logging.LogRecord] = []
    other = logging.Handler()
    other.emit = records.append  # type: ignore[method-assign]
    logging.root.handlers.append(other)
    tell("a %s line")
    assert [record.getMessage() for record in records] == ["a %s line"]
    assert lines.stream.getvalue() == "a %s line\n"


def test_a_stream_that_is_closed_costs_a_line_and_no_more(lines: Lines) -> None:
    lines.stream.close()
    tell("a line")
