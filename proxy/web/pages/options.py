"""Converts the chat page's settings to a dialogue's parameters.

Raises InvalidParameter for invalid settings, before anything of a question is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...apis import fields
from ...core.request import Message
from ...core.sampling import sampling
from ...dialogue import EMPTY, FOLDERS, DialogueRequest, Kind
from ...errors import InvalidParameter
from ...prompting.dialogue_templates import Layouts
from . import api, images

if TYPE_CHECKING:
    from ...store.conversations import StoredMessage

WHERE = "options."


def templates(layouts: Layouts) -> dict[Kind, tuple[str, ...]]:
    """Return the names of the prompt templates that each mode may use."""
    return {
        kind: tuple(name for name in layouts.names(folder) if name != EMPTY)
        for kind, folder in FOLDERS.items()
    }


def messages_of(branch: Sequence[StoredMessage]) -> list[Message]:
    """Convert a branch of a conversation to the model's messages."""
    return [
        Message(role=one.role, content=one.content, media=images.media_of(images.kept(one)))
        for one in branch
        if one.content
    ]


def read(
    options: Mapping[str, Any],
    messages: Sequence[Message],
    layouts: Layouts,
    owner: str,
    session: str,
) -> DialogueRequest:
    """Read `options`: kind, template (one of `templates`), model, system, base (its id), top_k,
    score_threshold, engine, max_tokens, history (turns), and sampling parameters by llama.cpp's
    names. `messages` end with the question."""
    kind = fields.text(options, "kind", "chat")
    if kind not in FOLDERS:
        raise InvalidParameter("options.kind", f"must be one of {', '.join(FOLDERS)}")
    template = fields.text(options, "template") or "default"
    if template not in (known := templates(layouts)[kind]):  # type: ignore[index]  # checked above
        raise InvalidParameter("options.template", f"must be one of {', '.join(known)}")
    messages = list(messages)
    history = fields.integer(options, "history", 0, 1000, WHERE)
    if history is not None:
        messages = messages[-(2 * history + 1) :]
    system = fields.text(options, "system").strip()
    if system:
        messages.insert(0, Message(role="system", content=system))
    base = fields.text(options, "base")
    return DialogueRequest(
        kind=kind,  # type: ignore[arg-type]  # checked above
        messages=tuple(messages),
        model=fields.text(options, "model"),
        sampling=sampling(fields.mapping(options, "sampling", WHERE)),
        template=template,
        max_tokens=fields.integer(options, "max_tokens", 1, 1 << 20, WHERE),
        bases=(base,) if base else (),
        top_k=fields.integer(options, "top_k", 1, 50, WHERE) or 3,
        score_threshold=api.share(options, "score_threshold", WHERE),
        engine=fields.text(options, "engine"),
        owner=owner,
        session=session,
    )
