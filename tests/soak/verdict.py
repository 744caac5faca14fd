"""The outcome of a request: a whole valid answer, an error of its dialect, or neither.

Every request must end within its time limit in a complete answer that its dialect's strict reader
accepts, or in a well-formed error of its dialect. Everything else is lost.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator

from tests.contract.ears import Heard
from tests.fuzz.subject import NO_HTTP, NO_ROUTE, is_error

from .questions import SCHEMA, Question

STAMP = re.compile(r"t(\d{15})")
VALID = Draft202012Validator(SCHEMA)


class Answer(NamedTuple):
    """`cut`: why the answer is not whole, "" if it is."""

    status: int
    kind: str
    body: bytes
    cut: str = ""


class Verdict(NamedTuple):
    """`end` is "whole", "refused" (an error instead of an answer), "broken off" (an error event
    within a stream) or "lost"; `why` says more."""

    end: str
    why: str = ""


class Wrong(Exception):
    """Why an answer counts as lost."""


def judged(question: Question, answer: Answer) -> Verdict:
    """The verdict on an answer whose client stayed to the end."""
    try:
        if answer.cut:
            raise Wrong(answer.cut)
        if answer.status >= 400:
            return _refused(question, answer)
        if question.dialect is None:
            return _looked(answer)
        return _spoken(question, answer)
    except Wrong as wrong:
        return Verdict("lost", str(wrong))
    except (AssertionError, KeyError, TypeError, ValueError, IndexError) as error:
        return Verdict("lost", f"invalid: {type(error).__name__}: {error}"[:300])


def returned(question: Question, sent: bytes, answer: Answer) -> Verdict:
    """The verdict on the content of an uploaded file."""
    if answer.cut or answer.status >= 400:
        return judged(question, answer)
    same = answer.status == 200 and answer.body == sent
    return Verdict("whole") if same else Verdict("lost", "the file has other content")


def _refused(question: Question, answer: Answer) -> Verdict:
    if answer.body.startswith(NO_HTTP):
        if not question.may_refuse:
            raise Wrong(f"refused as invalid HTTP: {answer.body[:100]!r}")
        return Verdict("refused", "400")
    value = json.loads(answer.body)
    endpoint = "" if NO_ROUTE.search(answer.body) else question.endpoint
    if not is_error(endpoint, value) and question.path != "/health":
        raise Wrong(f"{answer.status} in a form of its own")
    if answer.status == 500:
        raise Wrong(f"500: {answer.body[:200]!r}")
    if answer.status < 500 and answer.status != 429 and not question.may_refuse:
        raise Wrong(f"a valid request is refused: {answer.status} {answer.body[:200]!r}")
    return Verdict("refused", str(answer.status))


def _looked(answer: Answer) -> Verdict:
    if answer.kind == "application/json":
        json.loads(answer.body)
    if not answer.body:
        raise Wrong("empty")
    return Verdict("whole")


def _spoken(question: Question, answer: Answer) -> Verdict:
    assert question.dialect is not None
    streamed = answer.kind in ("text/event-stream", "application/x-ndjson")
    if question.may_refuse:
        # A changed body may ask for another form than this dialect's readers know.
        if not streamed:
            json.loads(answer.body)
        return Verdict("whole")
    if streamed != question.streamed:
        raise Wrong(f"{answer.kind}, streamed or whole against the request")
    if streamed:
        heard = question.dialect.stream(answer.body)
    else:
        heard = question.dialect.whole(json.loads(answer.body))
    if heard.error:
        return Verdict("broken off", heard.error)
    if not heard.reason:
        raise Wrong("no end")
    _content(question, heard)
    return Verdict("whole")


def _content(question: Question, heard: Heard) -> None:
    text = heard.text.get(0, "")
    if question.stamps:
        times = [int(stamp) for stamp in STAMP.findall(text)]
        if len(times) != question.stamps:
            raise Wrong(f"{len(times)} tokens of {question.stamps}")
        if times != sorted(times):
            raise Wrong("tokens in the wrong order")
    if heard.reason in ("length", "max_tokens"):
        return
    if question.shape == "json":
        _check(json.loads(text))
    if question.shape == "tool":
        if not heard.calls:
            raise Wrong("no tool call")
        for name, arguments in heard.calls:
            if name != "paint":
                raise Wrong(f"the tool {name!r}")
            _check(json.loads(arguments))


def _check(value: Any) -> None:
    for error in VALID.iter_errors(value):
        raise Wrong(f"not as its schema says: {error.message[:100]}")
