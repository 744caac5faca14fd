"""Derives what a model writes from its chat template.

A template renders earlier answers as the model writes them. So probe conversations are rendered,
with and without reasoning and calls, with one call and two, and the texts are compared. A derived
shape of calls is believed only if it writes what the template renders, for calls of every kind.
"""

from __future__ import annotations

import re

from msgspec.structs import replace

from ..formats import shaped
from ..formats.base import CallFormat
from ..marks import common_start
from ..reasoning import KIN, Tags
from ..templates import ChatTemplate
from .call_shape import FIRST, call_shape
from .probes import AGAIN, CONTENT, NAMES, REASON, RESULT, Probes
from .syntax import AnswerSyntax

_TAG = re.compile(r"<[^<>\s]*>|\[/?[A-Z_]+\]|◁[^◁▷\s]*▷|<\|[^<>]*\|>")
_LAST_TAG = re.compile(rf"(?:{_TAG.pattern})\s*\Z")
_RESPONSE = ("<response>", "</response>")
_MAX_TAG = 64


def answer_syntax(template: ChatTemplate, known: CallFormat | None = None) -> AnswerSyntax:
    """The syntax of answers; `known` is the format of calls, if it cannot be derived."""
    if known is not None and known.reads_reasoning:
        opening, closing = known.reasoning
        return AnswerSyntax(
            reasoning=((opening.strip(), closing),) if closing else (),
            content=known.content,
            calls=known,
            stops=known.stops,
        )
    probes = Probes(template)
    reasoning = _reasoning(probes) or _mentioned(template.source)
    content = _content(probes, reasoning)
    stops = _stops(probes, content[1])
    shape = call_shape(probes, (*reasoning, *KIN), stops)
    if not template.takes_tools and not _renders_results(probes):
        shape = None
    calls = known
    if shape is not None and known is None:
        calls = shaped(shape)
    elif shape is not None and known is not None and not shape.parallel:
        calls = replace(known, shape=replace(known.shape, parallel=False))
    return AnswerSyntax(reasoning=reasoning, content=content, calls=calls, stops=stops)


def _reasoning(probes: Probes) -> tuple[Tags, ...]:
    """The tags around reasoning, from an answer with reasoning, or else from a call with it."""
    with_reason, follows = probes.answer(reason=REASON), CONTENT
    without = probes.answer()
    if with_reason is None or REASON not in with_reason:
        with_reason, follows = probes.calls(FIRST, reason=REASON), NAMES[0]
        without = probes.calls(FIRST)
    if with_reason is None or without is None or with_reason.count(REASON) != 1:
        return ()
    before, _, behind = with_reason.partition(REASON)
    if follows not in behind or follows not in without:
        return ()
    closing = _first_tag(behind.partition(follows)[0])
    if not closing or len(closing) > _MAX_TAG:
        return ()
    plain = without.partition(follows)[0]
    if closing in plain:
        # An answer without reasoning has an empty block, whose opening tag both may have.
        tag = _LAST_TAG.search(before)
        opening = tag.group().strip() if tag else ""
    else:
        opening = _from_tag(before, plain)
    if not opening:
        # The prompt opens the block, with a text that the template leaves out of the history.
        prompt = probes.text(prompt=True) or ""
        opening = prompt[len(common_start(prompt, before)) :].strip() or ""
    return ((opening, closing),) if 0 < len(opening) <= _MAX_TAG else ()


def _renders_results(probes: Probes) -> bool:
    return RESULT in (probes.calls(FIRST, result=True) or "")


def _mentioned(source: str) -> tuple[Tags, ...]:
    """The known tags that the template's text has. Many templates only cut reasoning out."""
    return tuple(tags for tags in KIN if tags[1] in source)[:1]


def _from_tag(text: str, other: str) -> str:
    """What `text` has behind its common beginning with another, from the start of a tag."""
    at = len(common_start(text, other))
    start = max(text.rfind(sign, 0, at) for sign in "<[◁")
    if start >= 0 and not re.search(r"[>\]▷]", text[start:at]):
        at = start
    return text[at:].strip()


def _first_tag(text: str) -> str:
    found = _TAG.search(text)
    return found.group() if found and not text[: found.start()].strip() else text.strip()


def _content(probes: Probes, reasoning: tuple[Tags, ...]) -> tuple[str, str]:
    """The marks around the text of an answer."""
    answer, prompt = probes.answer(), probes.text(prompt=True)
    reasoned = probes.answer(reason=REASON)
    for text in (answer, reasoned):
        if text is None or prompt is None or CONTENT not in text:
            continue
        before, _, behind = text.partition(CONTENT)
        before = before[len(common_start(before, prompt)) :]
        if REASON in before:
            before = before.partition(REASON)[2]
            before = before.removeprefix(_first_tag(before.lstrip()))
        opening = before.strip()
        if _TAG.fullmatch(opening) and all(opening not in tags for tags in reasoning):
            closing = _first_tag(behind)
            name = re.sub(r"\W|START|BEGIN", "", opening, flags=re.IGNORECASE)
            if name and name == re.sub(r"\W|END|/", "", closing, flags=re.IGNORECASE):
                return opening, closing
    return _RESPONSE if probes.mentions("".join(_RESPONSE)) else ("", "")


def _stops(probes: Probes, closing: str) -> tuple[str, ...]:
    """The tag that ends an answer, behind the one that closes its text."""
    answer = probes.answer(again=True)
    if not answer or CONTENT not in answer or AGAIN not in answer:
        return ()
    between = answer.rpartition(AGAIN)[0].rpartition(CONTENT)[2].strip()
    return tuple(_TAG.findall(between.removeprefix(closing))[:1])
