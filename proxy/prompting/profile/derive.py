"""Derives what a model writes from its chat template.

A template renders earlier answers as the model writes them. So probe conversations are rendered,
with and without reasoning and calls, and compared. A derived shape of calls is believed only if it
writes what the template renders, for calls of every kind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ...core.request import Message, ToolCall
from ..formats import SPECIAL
from ..formats.base import ID, CallFormat, CallShape, TaggedArguments
from ..formats.objects import write_arguments, write_calls
from ..formats.scanner import common_end, common_start
from ..formats.shaped import shaped
from ..stages.reasoning import INLINE, REASONING_TAGS, Tags
from ..template import TemplateError
from ..template.bounds import Budget
from ..template.families import FAMILIES
from ..template.templates import ChatTemplate
from .adapt import as_dicts
from .messages import probe_tool


class AnswerSyntax(Struct, frozen=True, kw_only=True, cache_hash=True):
    """How to read an answer of a template's model: reasoning, calls and the end of its turn."""

    reasoning: tuple[tuple[str, str], ...] = ()
    content: tuple[str, str] = ("", "")
    calls: CallFormat | None = None
    """None if the template has no calls, or they cannot be derived."""
    stops: tuple[str, ...] = ()
    """End tokens of a turn; each is one token of the vocabulary and is sent to the backend."""

    @property
    def inline(self) -> tuple[str, str]:
        """What stands around reasoning that is left in the text: the model's own tags."""
        opening, closing = next(iter(self.reasoning), ("<think>", ""))
        if opening == "<think>":
            return INLINE
        if self.calls is not None and self.calls.reads_reasoning:
            opening, closing = self.calls.reasoning
        # The beginning of the next turn is no part of the text.
        return opening, closing[: closing.find(">") + 1] or closing

    @property
    def is_known(self) -> bool:
        return bool(self.stops or self.calls or self.reasoning)


# Renders probe conversations. Their texts are needles that occur nowhere else: a rendering can be
# taken apart at them.

USER = Message(role="user", content="NeedleUserText")
CONTENT, REASON = "NeedleContent", "NeedleReason"
NAMES = ("needle_name_one", "needle_name_two")
KEYS = ("needle_key_one", "needle_key_two")
VALUES = ("NeedleValueOne", "NeedleValueTwo")
IDS = ("callid001", "callid002")
LONG_IDS = ("longcallid001", "longcallid002")

Call = tuple[str, Mapping[str, Any]]
_NOW = datetime(2026, 1, 1)
_TOOLS = [probe_tool(name, "d", *KEYS, about_keys="d") for name in NAMES]
_THINKS = {"enable_thinking": True, "thinking": True}
STEPS = 100_000  # of all probes of a template; those of llama.cpp's need less than a tenth


class Probes:
    """Renders probes with one template; None if it refuses the messages."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._budget = Budget(STEPS)

    def text(self, *messages: Message, prompt: bool = False) -> str | None:
        texts = (self._rendered((USER, *messages), tools, prompt) for tools in (_TOOLS, None))
        behind = (text.rpartition(USER.content)[1:] for text in texts)
        return next((text for needle, text in behind if needle), None)

    def _rendered(self, chat: tuple[Message, ...], tools: Any, prompt: bool) -> str:
        """The prompt, "" if the template refuses."""
        messages = as_dicts(chat, self._template.rules)
        for message in messages:
            if "reasoning_content" in message:
                message["reasoning"] = message["reasoning_content"]  # as some templates call it
        try:
            return self._template.render(
                messages,
                tools,
                add_generation_prompt=prompt,
                now=_NOW,
                variables=_THINKS,
                budget=self._budget,
            )
        except TemplateError:
            return ""

    def mentions(self, text: str) -> bool:
        return text in self._rendered((USER,), None, prompt=True)

    def calls(self, *calls: Call, reason: str = "", ids: tuple[str, ...] = IDS) -> str | None:
        """An assistant's message with calls, in which ID stands for their ids."""
        made = tuple(
            ToolCall(call_id, name, json.dumps(arguments))
            for call_id, (name, arguments) in zip(ids, calls, strict=False)
        )
        text = self.text(Message(role="assistant", reasoning=reason, tool_calls=made))
        if text is None:
            return None
        for call_id in ids:
            text = text.replace(call_id, ID)
        return text

    def answer(self, reason: str = "") -> str | None:
        return self.text(Message(role="assistant", content=CONTENT, reasoning=reason))


# Derives the shape of calls from renderings of messages with one call, two calls, and others.
#
# With HEAD before the name of the first call, MIDDLE between the arguments of the first call and
# the name of the second, and TAIL behind the arguments of the last::
#
#     HEAD   = prefix before_name
#     MIDDLE = suffix separator before_name
#     TAIL   = suffix end
#
# so `before_name` is the common end of HEAD and MIDDLE, and `suffix` the common beginning of TAIL
# and MIDDLE. Tags are never cut.

ONE = {KEYS[0]: VALUES[0]}
BOTH = dict(zip(KEYS, VALUES, strict=True))
NUMBER = 70707
FIRST, SECOND = (NAMES[0], ONE), (NAMES[1], {KEYS[0]: VALUES[1]})
_JSON = json.JSONDecoder()
# Of calls: a mark, JSON, or the name itself.
_BEGINNING = re.compile(r"[<\[{]|\w+[:\[(]|\Z")
_CUT_TAG = re.compile(r"<[^<>\s]*\Z|\[/?[A-Z_]*\Z")
_SAMPLES: tuple[tuple[Call, ...], ...] = (
    ((NAMES[0], {}),),
    ((NAMES[0], BOTH),),
    ((NAMES[1], {KEYS[0]: 7, KEYS[1]: {"a": [1, "b"]}}),),
    (FIRST, (NAMES[1], BOTH)),
)


def call_shape(probes: Probes, tags: Sequence[Tags], stops: Sequence[str]) -> CallShape | None:
    """The shape of the template's calls, None if there is none that can be derived. It may write
    empty reasoning between `tags` before a call, and one of `stops` behind."""
    regions = _Regions(probes, tags, stops)
    single = regions.of(FIRST)
    if single is None:
        return None
    two = regions.of(FIRST, SECOND)
    parsed = _parts(single, regions) if two is None else _parts_of_two(single, two, regions)
    if parsed is None:
        return None
    shape = _with_ids(parsed, probes)
    if not _BEGINNING.match(shape.prefix + shape.before_name):
        return None
    return shape if _writes(shape, regions, parallel=two is not None) else None


class _Regions:
    """Cuts the text of calls out of a rendered message."""

    def __init__(self, probes: Probes, tags: Sequence[Tags], stops: Sequence[str]) -> None:
        self._probes = probes
        self._stops = stops
        self._plain = probes.answer() or ""
        self._prompt = probes.text(prompt=True) or ""
        blocks = (rf"(?:{re.escape(a)})?\s*{re.escape(b)}" for a, b in tags if b)
        self._empty_block = re.compile("|".join(blocks))

    def of(self, *calls: Call) -> str | None:
        """The text of these calls; None if the template does not render all of them."""
        text = self._probes.calls(*calls)
        if text is None or any(text.count(name) != 1 for name, _ in calls):
            return None
        start = len(common_start(text, self._prompt))
        if start < len(self._prompt.rstrip()):
            start = len(common_start(text, self._plain))
        start = _whole_tag(text, min(start, text.find(calls[0][0])))
        end = self._end(text, text.find(calls[-1][0]))
        region = text[start:end].strip()
        block = self._empty_block.match(region)
        return region[block.end() :].strip() if block else region

    def _end(self, text: str, last: int) -> int:
        """Where the turn ends whose last call is at `last`: as an answer of text does, or with
        another tag in its place."""
        stops = [at for stop in self._stops if (at := text.find(stop, last)) >= 0]
        if stops:
            return min(stops)
        text = text.rstrip()
        common = common_end(text, self._plain.rpartition(CONTENT)[2].rstrip())
        # Two tags may end alike: <|calls|> and <|end|>.
        return _whole_tag(text, len(text) - len(common))


def _whole_tag(text: str, at: int) -> int:
    """The beginning of the tag that this position is inside of, or the position."""
    cut = _CUT_TAG.search(text[:at])
    return cut.start() if cut else at


def _parts(text: str, regions: _Regions) -> CallShape | None:
    """The shape of a template that renders one call a turn."""
    head, _, rest = text.partition(NAMES[0])
    arguments = _arguments(rest, regions)
    if arguments is None:
        return None
    after_name, tags, tail = arguments
    return CallShape(
        before_name=head, after_name=after_name, suffix=tail, tagged=tags, parallel=False
    )


def _parts_of_two(text: str, two: str, regions: _Regions) -> CallShape | None:
    single = _parts(text, regions)
    if single is None:
        return None
    head, tail = single.before_name, single.suffix
    first, _, _ = two.partition(NAMES[1])
    written = NAMES[0] + single.after_name + write_arguments(single, ONE)
    middle = _behind(first[first.find(NAMES[0]) :], written)
    if middle is None:
        return None
    before = _common_end(head, middle)
    rest = middle[: len(middle) - len(before)]
    suffix = _common_beginning(tail, rest)
    return replace(
        single,
        prefix=head[: len(head) - len(before)],
        before_name=before,
        suffix=suffix,
        separator=rest[len(suffix) :],
        end=tail[len(suffix) :],
        parallel=True,
    )


def _behind(text: str, beginning: str) -> str | None:
    """What follows the beginning; JSON may be spaced in any way."""
    if text.startswith(beginning):
        return text[len(beginning) :]
    try:
        _, end = _JSON.raw_decode(text, text.index("{", len(NAMES[0])))
    except ValueError:
        return None
    return text[end:]


def _arguments(rest: str, regions: _Regions) -> tuple[str, TaggedArguments | None, str] | None:
    """What is before the arguments, their form, and what is behind them."""
    brace = rest.find("{")
    if brace >= 0:
        try:
            value, end = _JSON.raw_decode(rest, brace)
        except ValueError:
            pass
        else:
            return (rest[:brace], None, rest[end:]) if value == ONE else None
    both = regions.of((NAMES[0], BOTH))
    if both is None or rest.count(KEYS[0]) != 1 or both.count(KEYS[1]) != 1:
        return None
    lead, _, behind = rest.partition(KEYS[0])
    after_key, _, tail = behind.partition(VALUES[0])
    middle = both.partition(VALUES[0])[2].partition(KEYS[1])[0]
    if not (lead and after_key and tail and middle):
        return None
    before_key = _common_end(lead, middle)
    between = middle[: len(middle) - len(before_key)]
    after_value = _common_beginning(tail, between)
    if not (before_key.strip() and after_value.strip()):
        return None
    special = regions.of((NAMES[0], {KEYS[0]: f"<&{VALUES[0]}>"})) or ""
    number = regions.of((NAMES[0], {KEYS[0]: NUMBER})) or ""
    of_number = number.partition(KEYS[0])[2].partition(str(NUMBER))[0]
    tags = TaggedArguments(
        before_key=before_key,
        after_key=of_number or after_key,
        text_after_key=after_key if of_number not in ("", after_key) else "",
        after_value=after_value,
        separator=between[len(after_value) :],
        cdata="<![CDATA[" in special,
    )
    return lead[: len(lead) - len(before_key)], tags, tail[len(after_value) :]


def _common_end(text: str, other: str) -> str:
    common = common_end(text, other)
    if len(common) < max(len(text), len(other)):
        starts = [at for sign in "<[{" if (at := common.find(sign)) >= 0]
        at = min(starts, default=0)
        # White space before the first tag stays if nothing else is cut off.
        return common if not common[:at].strip() else common[at:]
    return common


def _common_beginning(text: str, other: str) -> str:
    common = common_start(text, other)
    cut = _CUT_TAG.search(common)
    return common[: cut.start()] if cut else common


def _with_ids(shape: CallShape, probes: Probes) -> CallShape:
    text = shape.before_name + shape.after_name + shape.suffix
    if ID not in text:
        return shape
    longer = probes.calls(FIRST, ids=LONG_IDS) or ""
    return shape if ID in longer else replace(shape, ids="nine")


def _writes(shape: CallShape, regions: _Regions, *, parallel: bool) -> bool:
    """Whether the shape writes other calls as the template does, but for white space and ids."""
    for calls in _SAMPLES:
        rendered = regions.of(*calls) if parallel or len(calls) == 1 else None
        if rendered is not None and _squeezed(write_calls(shape, *calls)) != _squeezed(rendered):
            return False
    return True


def _squeezed(text: str) -> str:
    """Without white space, and with the quotes of JSON: some templates print lists as Python."""
    return re.sub(r"\s+", "", text).replace("'", '"')


_TAG = re.compile(r"<[^<>\s]*>|\[/?[A-Z_]+\]|◁[^◁▷\s]*▷|<\|[^<>]*\|>")
_LAST_TAG = re.compile(rf"(?:{_TAG.pattern})\s*\Z")
_RESPONSE = ("<response>", "</response>")
_MAX_TAG = 64


def answer_syntax(template: ChatTemplate, call_format: CallFormat | None = None) -> AnswerSyntax:
    """The syntax of answers; `call_format` is the format of calls, if it cannot be derived."""
    if call_format is not None and call_format.reads_reasoning:
        opening, closing = call_format.reasoning
        return AnswerSyntax(
            reasoning=((opening.strip(), closing),) if closing else (),
            content=call_format.content,
            calls=call_format,
            stops=call_format.stops,
        )
    probes, rules = Probes(template), template.rules
    reasoning = _reasoning(probes)
    if not reasoning:  # many templates only cut reasoning out, by its closing tag
        reasoning = tuple(tags for tags in REASONING_TAGS if tags[1] in template.source)[:1]
    content = _RESPONSE if probes.mentions("".join(_RESPONSE)) else ("", "")
    stops: tuple[str, ...] = (rules.end,) if rules.end_is_token else ()
    if call_format is not None and call_format.stops:
        stops = call_format.stops
    shape = call_shape(probes, (*reasoning, *REASONING_TAGS), stops)
    if not (rules.tools or rules.calls):
        shape = None
    calls = call_format
    if shape is not None and call_format is None:
        calls = shaped(shape)
    elif shape is not None and not shape.parallel and call_format is not None:
        calls = replace(call_format, shape=replace(call_format.shape, parallel=False))
    return AnswerSyntax(reasoning=reasoning, content=content, calls=calls, stops=stops)


def _reasoning(probes: Probes) -> tuple[Tags, ...]:
    """The tags around reasoning, from an answer with reasoning, or else from a call with it."""
    with_reason, follows = probes.answer(REASON), CONTENT
    without = probes.answer()
    if with_reason is None or REASON not in with_reason:
        with_reason, follows = probes.calls(FIRST, reason=REASON), NAMES[0]
        without = probes.calls(FIRST)
    if with_reason is None or without is None or with_reason.count(REASON) != 1:
        return ()
    before, _, behind = with_reason.partition(REASON)
    if follows not in behind or follows not in without:
        return ()
    behind = behind.partition(follows)[0]
    tag = _TAG.search(behind)
    closing = tag.group() if tag and not behind[: tag.start()].strip() else behind.strip()
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


def _from_tag(text: str, other: str) -> str:
    """What `text` has behind its common beginning with another, from the start of a tag."""
    at = len(common_start(text, other))
    cut = re.search(r"[<\[◁][^<\[◁>\]▷]*\Z", text[:at])
    return text[cut.start() if cut else at :].strip()


def syntax_of(template: ChatTemplate, formats: Sequence[CallFormat] = SPECIAL) -> AnswerSyntax:
    """The syntax by the first of `formats` that matches, or as it is derived; the shipped families
    know their end tokens and the tags of their reasoning."""
    special = (form for form in formats if form.matches(template.source))
    syntax = answer_syntax(template, next(special, None))
    family = template.family
    if family.reasoning is not None and not syntax.reasoning:
        syntax = replace(syntax, reasoning=(family.reasoning,))
    calls = syntax.calls
    own = syntax.stops and family.name not in FAMILIES
    if family.stops and not (own or (calls is not None and calls.reads_reasoning)):
        syntax = replace(syntax, stops=family.stops)
    return syntax
