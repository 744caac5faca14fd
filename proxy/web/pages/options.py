"""What the chat page's settings say, as what a dialogue is asked. Raises Invalid for what they may
not say, before anything of a question is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...core.invalid import Invalid
from ...core.request import Message as Said
from ...core.sampling import sampling
from ...dialects import fields
from ...dialogue import EMPTY, FOLDERS, DialogueRequest, Kind
from . import api, images

if TYPE_CHECKING:
    from ...prompting.layouts import Layouts
    from ...store.conversations import Message

WHERE = "options."


def templates(layouts: Layouts) -> dict[Kind, tuple[str, ...]]:
    """Names of the prompt templates that may be chosen in each mode."""
    return {
        kind: tuple(name for name in layouts.names(folder) if name != EMPTY)
        for kind, folder in FOLDERS.items()
    }


def said(branch: Sequence[Message]) -> list[Said]:
    """A branch of a conversation as a model is told of it."""
    return [
        Said(one.role, one.content, media=images.media_of(images.kept(one)))
        for one in branch
        if one.content
    ]


def read(
    options: Mapping[str, Any],
    messages: Sequence[Said],
    layouts: Layouts,
    owner: str,
    session: str,
) -> DialogueRequest:
    """`options`: kind, template (one of `templates`), model, system, base (its id), top_k,
    score_threshold, engine, max_tokens, history (turns) and sampling by the names of llama.cpp;
    `messages` end with the question."""
    kind = fields.text(options, "kind", "chat")
    if kind not in FOLDERS:
        raise Invalid("options.kind", f"must be one of {', '.join(FOLDERS)}")
    template = fields.text(options, "template") or "default"
    if template not in (known := templates(layouts)[kind]):  # type: ignore[index]  # it was checked
        raise Invalid("options.template", f"must be one of {', '.join(known)}")
    messages = list(messages)
    history = fields.integer(options, "history", 0, 1000, WHERE)
    if history is not None:
        messages = messages[-(2 * history + 1) :]
    system = fields.text(options, "system").strip()
    if system:
        messages.insert(0, Said("system", system))
    base = fields.text(options, "base")
    return DialogueRequest(
        kind=kind,  # type: ignore[arg-type]  # it was checked
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
