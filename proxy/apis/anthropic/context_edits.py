"""Anthropic's `context_management`: old tool results and thoughts are cleared from a prompt, and
the oldest turns are summed up.

The format is that of the betas context-management-2025-06-27 and compact-2026-01-12. A call and its
result stay together: only their texts are replaced. Other edits are ignored with a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct, structs

from ...core.conversation import LEAD
from ...core.events import Compacted
from ...core.request import Compaction, CompletionRequest, Message
from ...core.usage import Usage
from ...errors import InvalidParameter
from .. import fields
from ..fields import Body

TOOL_USES, THINKING = "clear_tool_uses_20250919", "clear_thinking_20251015"
COMPACT = "compact_20260112"
COMPACT_TRIGGER = 150_000
LONGEST_INSTRUCTIONS = 16_384  # characters
TRIGGER, KEEP = 100_000, 3  # defaults: input tokens, and uses of tools
TRIGGERS = ("input_tokens", "tool_uses")
CLEARED = "[This result was cleared to save context.]"
MOST = 16  # edits
LARGEST = 10_000_000  # tokens, uses or turns

Count = Callable[[CompletionRequest], int]
"""Counts the tokens of a request's prompt."""


class Edit(Struct, frozen=True, kw_only=True):
    """An edit. It applies beyond `trigger` input tokens or uses of tools (`by_uses`), and keeps the
    last `keep` uses or turns with thoughts, None for all. It must clear `least` tokens. Results of
    the tools `exclude` stay; arguments of the tools `inputs` are cleared too, of all if None."""

    type: str
    trigger: int = TRIGGER
    by_uses: bool = False
    keep: int | None = KEEP
    least: int = 0
    exclude: frozenset[str] = frozenset()
    inputs: frozenset[str] | None = frozenset()


class ContextManagement(Struct, frozen=True):
    edits: tuple[Edit, ...] = ()
    compaction: Compaction | None = None
    warnings: tuple[str, ...] = ()


def parse(body: Body) -> ContextManagement:
    place = "context_management."
    management = fields.mapping(body, "context_management")
    if len(fields.items(management, "edits", place)) > MOST:
        raise InvalidParameter(f"{place}edits", f"may have at most {MOST} edits")
    edits: dict[str, Edit | Compaction] = {}
    warnings = []
    for edit, at in fields.objects(management, "edits", place):
        kind = fields.filled(edit, "type", at)
        if kind in edits:
            raise InvalidParameter(f"{at}type", "may be in one edit only")
        if kind == TOOL_USES:
            edits[kind] = _tool_uses(edit, at)
        elif kind == THINKING:
            edits[kind] = Edit(type=kind, trigger=0, keep=_turns(edit, at))
        elif kind == COMPACT:
            edits[kind] = _compaction(edit, at)
        else:
            warnings.append(f"context edits of type {fields.header_safe(kind)} are ignored")
    return ContextManagement(
        tuple(edit for edit in edits.values() if isinstance(edit, Edit)),
        next((edit for edit in edits.values() if isinstance(edit, Compaction)), None),
        tuple(warnings),
    )


def _compaction(edit: Body, at: str) -> Compaction:
    _trigger(edit, at, TRIGGERS[:1])
    instructions = fields.text(edit, "instructions", at=at)
    if len(instructions) > LONGEST_INSTRUCTIONS:
        raise InvalidParameter(
            f"{at}instructions", f"may have at most {LONGEST_INSTRUCTIONS} characters"
        )
    return Compaction(
        _value(edit, "trigger", at) or COMPACT_TRIGGER,
        instructions.strip(),
        fields.flag(edit, "pause_after_compaction", at=at),
    )


def apply(
    request: CompletionRequest, edits: Sequence[Edit], count: Count
) -> tuple[CompletionRequest, list[dict[str, Any]]]:
    """The request with those edits that apply, and a report of each."""
    applied = []
    before: int | None = None  # tokens of the prompt, once they are counted
    for edit in edits:
        clear = _clear_thoughts if edit.type == THINKING else _clear_results
        messages, cleared = clear(request.messages, edit)
        uses = sum(message.role == "tool" for message in request.messages)
        if not cleared or (edit.by_uses and uses <= edit.trigger):
            continue
        if before is None:
            before = count(request)
        if not edit.by_uses and before <= edit.trigger:
            continue
        edited = structs.replace(request, messages=tuple(messages))
        after = count(edited)
        saved = before - after
        if saved < edit.least:
            continue
        request, before = edited, after
        name = "cleared_thinking_turns" if edit.type == THINKING else "cleared_tool_uses"
        applied.append({"type": edit.type, name: cleared, "cleared_input_tokens": max(0, saved)})
    return request, applied


def _tool_uses(edit: Body, at: str) -> Edit:
    kind = _trigger(edit, at, TRIGGERS)
    inputs: frozenset[str] | None
    if type(edit.get("clear_tool_inputs")) is list:
        inputs = _names(edit, "clear_tool_inputs", at)
    else:
        inputs = None if fields.flag(edit, "clear_tool_inputs", at=at) else frozenset()
    keep, trigger = _value(edit, "keep", at), _value(edit, "trigger", at)
    return Edit(
        type=TOOL_USES,
        trigger=TRIGGER if trigger is None else trigger,
        by_uses=kind == "tool_uses",
        keep=KEEP if keep is None else keep,
        least=_value(edit, "clear_at_least", at) or 0,
        exclude=_names(edit, "exclude_tools", at),
        inputs=inputs,
    )


def _trigger(edit: Body, at: str, kinds: Sequence[str]) -> str:
    trigger = fields.mapping(edit, "trigger", at)
    return fields.choice(trigger, "type", kinds, TRIGGERS[0], f"{at}trigger.")


def _turns(edit: Body, at: str) -> int | None:
    """How many turns keep their thoughts; None for all."""
    if edit.get("keep") == "all" or edit.get("keep") == {"type": "all"}:
        return None
    keep = _value(edit, "keep", at)
    return 1 if keep is None else max(1, keep)


def _value(edit: Body, name: str, at: str) -> int | None:
    return fields.integer(fields.mapping(edit, name, at), "value", 0, LARGEST, f"{at}{name}.")


def _names(edit: Body, name: str, at: str) -> frozenset[str]:
    return frozenset(fields.strings(edit, name, at))


def _clear_results(messages: Sequence[Message], edit: Edit) -> tuple[list[Message], int]:
    """The messages without the texts of old results, and how many results were cleared."""
    results = []  # the places of each, and of its call
    calls: dict[str, tuple[int, int]] = {}  # the last ones: some clients use an id again
    for i, message in enumerate(messages):
        calls |= {call.id: (i, j) for j, call in enumerate(message.tool_calls)}
        if message.role == "tool":
            at = calls.get(message.tool_call_id)
            if not at or messages[at[0]].tool_calls[at[1]].name not in edit.exclude:
                results.append((i, at))
    old = dict(results[: max(0, len(results) - (edit.keep or 0))])
    old_calls = frozenset(old.values())
    edited, cleared = [], 0
    for i, message in enumerate(messages):
        if i in old and message.content != CLEARED:
            message = structs.replace(message, content=CLEARED, media=(), parts=())
            cleared += 1
        elif message.tool_calls and edit.inputs != frozenset():
            arguments = (
                structs.replace(call, arguments="{}")
                if (i, j) in old_calls and (edit.inputs is None or call.name in edit.inputs)
                else call
                for j, call in enumerate(message.tool_calls)
            )
            message = structs.replace(message, tool_calls=tuple(arguments))
        edited.append(message)
    return edited, cleared


def _clear_thoughts(messages: Sequence[Message], edit: Edit) -> tuple[list[Message], int]:
    """The messages without old thoughts, and how many turns lost theirs."""
    if edit.keep is None:
        return list(messages), 0
    turns = [i for i, message in enumerate(messages) if message.reasoning]
    old = set(turns[: max(0, len(turns) - edit.keep)])
    edited = [
        structs.replace(message, reasoning="") if i in old else message
        for i, message in enumerate(messages)
    ]
    return edited, len(old)


# The `compaction` blocks of conversations that were summed up, and what that cost. Clients send
# the block back in its place; it stands for everything before it. Its content is null if there is
# no summary, and then it means nothing.
COMPACTION = "compaction"  # also the stop reason of an answer that is only the block


def summary_of(message: Body, at: str) -> Message | None:
    """The summary in a message that a client sends back: the last one. Raises InvalidParameter."""
    content = message.get("content")
    summary = ""
    for i, block in enumerate(content if type(content) is list else ()):
        if type(block) is dict and block.get("type") == COMPACTION:
            summary = fields.text(block, "content", at=f"{at}content[{i}].") or summary
    return Message(role="user", content=LEAD + summary) if summary else None


def iterations(compacted: Compacted, answer: Usage) -> list[dict[str, Any]]:
    """The tokens of the summary, if it was written for this answer, and those of the answer."""
    both = [("compaction", compacted.usage), ("message", answer)]
    return [{"type": kind, **usage(counts)} for kind, counts in both if counts.total]


def usage(counts: Usage) -> dict[str, Any]:
    """Anthropic's usage; cached tokens are not among the input tokens."""
    return {
        "input_tokens": counts.prompt - counts.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.cached,
        "output_tokens": counts.completion,
    }
