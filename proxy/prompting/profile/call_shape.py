"""Derives the shape of calls from renderings of messages with one call, two calls, and others.

With HEAD before the name of the first call, MIDDLE between the arguments of the first call and the
name of the second, and TAIL behind the arguments of the last::

    HEAD   = prefix before_name
    MIDDLE = suffix separator before_name
    TAIL   = suffix end

so `before_name` is the common end of HEAD and MIDDLE, and `suffix` the common beginning of TAIL and
MIDDLE. Tags are never cut: `<tool_calls>` and `<tool_call>` share their last letters by chance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec.structs import replace

from ..formats.base import ID, CallShape, TaggedArguments
from ..formats.tagged import write_arguments, write_calls
from ..marks import common_end, common_start
from ..reasoning import Tags
from .probes import CONTENT, KEYS, LONG_IDS, NAMES, VALUES, Probes

ONE = {KEYS[0]: VALUES[0]}
BOTH = dict(zip(KEYS, VALUES, strict=True))
FIRST, SECOND = (NAMES[0], ONE), (NAMES[1], {KEYS[0]: VALUES[1]})
_JSON = json.JSONDecoder()
_BEGINNING = re.compile(r"[<\[{]|\w+[:\[(]|\Z")
"""Of calls: a mark, JSON, or the name itself."""
_CUT_TAG = re.compile(r"<[^<>\s]*\Z|\[/?[A-Z_]*\Z")
_TAG = re.compile(r"<[^<>]*>|\[/?[A-Z_]+\]")
_SAMPLES: tuple[tuple[tuple[str, Mapping[str, Any]], ...], ...] = (
    ((NAMES[0], {}),),
    ((NAMES[0], BOTH),),
    ((NAMES[1], {KEYS[0]: 7, KEYS[1]: {"a": [1, "b"]}}),),
    (FIRST, (NAMES[1], BOTH)),
)


def call_shape(probes: Probes, tags: Sequence[Tags], stops: Sequence[str]) -> CallShape | None:
    """The shape of the template's calls; None if it has none, or one that cannot be derived.

    A template may write empty reasoning between `tags` before a call, and one of `stops` behind."""
    regions = _Regions(probes, tags, stops)
    one = regions.of(FIRST)
    if one is None:
        return None
    two = regions.of(FIRST, SECOND)
    parsed = _parts(one, regions) if two is None else _parts_of_two(one, two, regions)
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

    def of(self, *calls: tuple[str, Mapping[str, Any]]) -> str | None:
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
        """Where the turn ends whose last call is at `last`: what ends an answer of text ends it as
        well, or another tag in its place."""
        stops = [at for stop in self._stops if (at := text.find(stop, last)) >= 0]
        if stops:
            return min(stops)
        plain = self._plain.rpartition(CONTENT)[2].rstrip()
        text = text.rstrip()
        common = common_end(text, plain)
        at = len(text) - len(common)
        if tag := _TAG.search(common):
            return at + (tag.start() if common[: tag.start()].strip() else 0)
        # Two tags that end alike: <|calls|> and <|end|>.
        return _whole_tag(text, at) if common.strip() else at


def _whole_tag(text: str, at: int) -> int:
    """The beginning of the tag that this position is inside of, or the position."""
    cut = _CUT_TAG.search(text[:at])
    return cut.start() if cut else at


def _parts(one: str, regions: _Regions) -> CallShape | None:
    """The shape of a template that renders one call a turn."""
    head, _, rest = one.partition(NAMES[0])
    arguments = _arguments(rest, regions)
    if arguments is None:
        return None
    after_name, tags, tail = arguments
    return CallShape(
        before_name=head, after_name=after_name, suffix=tail, tagged=tags, parallel=False
    )


def _parts_of_two(one: str, two: str, regions: _Regions) -> CallShape | None:
    single = _parts(one, regions)
    if single is None:
        return None
    head, tail = single.before_name, single.suffix
    first, _, _ = two.partition(NAMES[1])
    written = NAMES[0] + single.after_name + write_arguments(single, ONE)
    at = first.find(NAMES[0])
    middle = _behind(first[at:], written)
    if middle is None:
        return None
    ids: Literal["word", "index"] = "word"
    if ID not in head and (with_index := _with_index(head, middle)):
        (head, middle), ids = with_index, "index"
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
        ids=ids,
    )


def _behind(text: str, beginning: str) -> str | None:
    """What follows the beginning; JSON may be spaced in any way."""
    if text.startswith(beginning):
        return text[len(beginning) :]
    brace = text.find("{", len(NAMES[0]))
    if brace < 0:
        return None
    try:
        _, end = _JSON.raw_decode(text, brace)
    except ValueError:
        return None
    return text[end:]


def _with_index(head: str, middle: str) -> tuple[str, str] | None:
    """Both with ID in place of an index, which is 0 in the first call and 1 in the second, or one
    more."""
    common = _common_end(head, middle, whole_tags=False)
    a, b = head[: len(head) - len(common)], middle[: len(middle) - len(common)]
    if a[-1:].isdigit() and b[-1:].isdigit() and int(b[-1]) == int(a[-1]) + 1:
        return a[:-1] + ID + common, b[:-1] + ID + common
    return None


def _arguments(rest: str, regions: _Regions) -> tuple[str, TaggedArguments | None, str] | None:
    """What is between the name and the arguments, the form of the arguments, and what follows
    them."""
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
    tags = TaggedArguments(
        before_key=before_key,
        after_key=after_key,
        after_value=after_value,
        separator=between[len(after_value) :],
    )
    return lead[: len(lead) - len(before_key)], tags, tail[len(after_value) :]


def _common_end(one: str, other: str, *, whole_tags: bool = True) -> str:
    common = common_end(one, other)
    if whole_tags and len(common) < max(len(one), len(other)):
        starts = [at for sign in "<[{" if (at := common.find(sign)) >= 0]
        at = min(starts, default=0)
        # White space before the first tag stays if nothing else is cut off.
        return common if not common[:at].strip() else common[at:]
    return common


def _common_beginning(one: str, other: str) -> str:
    common = common_start(one, other)
    cut = _CUT_TAG.search(common)
    return common[: cut.start()] if cut else common


def _with_ids(shape: CallShape, probes: Probes) -> CallShape:
    """The shape with the kind of its ids."""
    text = shape.before_name + shape.after_name + shape.suffix
    if ID not in text or shape.ids == "index":
        return shape
    longer = probes.calls(FIRST, ids=LONG_IDS)
    takes = longer is not None and ID in longer
    return shape if takes else replace(shape, ids="nine")


def _writes(shape: CallShape, regions: _Regions, *, parallel: bool) -> bool:
    """Whether the shape writes other calls as the template does, but for white space and ids."""
    for calls in _SAMPLES:
        if len(calls) > 1 and not parallel:
            continue
        rendered = regions.of(*calls)
        if rendered is None:
            continue
        written = write_calls(shape, *calls)
        if shape.ids == "index":
            for number in range(len(calls)):
                written = written.replace(ID, str(number), 1)
        if _squeezed(written) != _squeezed(rendered):
            return False
    return True


def _squeezed(text: str) -> str:
    """Without white space, and with the quotes of JSON: some templates print lists as Python."""
    return re.sub(r"\s+", "", text).replace("'", '"')
