"""What the routes under /chat and /other/completion are asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from ...core.invalid import Invalid
from ...core.request import Message, Role
from ...core.sampling import check
from ..fields import Body, flag, integer, items, text

Kind = Literal["chat", "knowledge", "search", "agent"]

# The prompt templates of a kind: a folder of templates/dialogues, and the `type` of
# /server/get_prompt_template.
FOLDERS: dict[Kind, str] = {
    "chat": "llm_chat",
    "knowledge": "knowledge_base_chat",
    "search": "search_engine_chat",
    "agent": "agent_chat",
}
ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}
SPOKEN = {"human": "user", "ai": "assistant"}  # the names langchain has for them

TEMPERATURE = 0.7
MODIFIED = {"temperature": 0.95, "top_p": 0.7}  # the defaults of the form {messages, ...}
TOP_K = 3
MOST_HITS = 100
SCORE_THRESHOLD = 1.0
FARTHEST = 2.0
MAX_TOKENS = 1 << 30
LONGEST_REASON = 10_000  # characters


class Asked(Struct, frozen=True, kw_only=True):
    """One dialogue. The last of `messages` is the question. `base` is a knowledge base's name, or
    the id of a temporary one; `score_threshold` is Chatchat's, 0 to 2, smaller is nearer."""

    kind: Kind
    messages: tuple[Message, ...]
    model: str = ""
    stream: bool = False
    sampling: Mapping[str, Any] = {}
    max_tokens: int | None = None
    prompt_name: str = "default"
    base: str = ""
    top_k: int = TOP_K
    score_threshold: float = SCORE_THRESHOLD
    engine: str = ""
    split: bool = False


def chat(body: Body) -> Asked:
    """Both forms of /chat/chat: {query, history, ...} and {messages, ...}. Raises Invalid."""
    return _spoken(body) if "messages" in body else Asked(kind="chat", **_common(body))


def knowledge(body: Body) -> Asked:
    """Raises Invalid."""
    return Asked(
        kind="knowledge", base=_needed(body, "knowledge_base_name"), **_common(body), **hits(body)
    )


def file(body: Body) -> Asked:
    """/chat/file_chat: a knowledge dialogue over a temporary base. Raises Invalid."""
    return Asked(
        kind="knowledge", base=_needed(body, "knowledge_id"), **_common(body), **hits(body)
    )


def search(body: Body) -> Asked:
    """Raises Invalid."""
    return Asked(
        kind="search",
        engine=_needed(body, "search_engine_name"),
        top_k=integer(body, "top_k", 1, MOST_HITS) or TOP_K,
        split=flag(body, "split_result"),
        **_common(body),
    )


def agent(body: Body) -> Asked:
    """Raises Invalid."""
    return Asked(kind="agent", **_common(body))


class Completion(Struct, frozen=True, kw_only=True):
    """/other/completion: a text to go on with, without a chat's form."""

    prompt: str
    model: str = ""
    stream: bool = False
    echo: bool = False
    sampling: Mapping[str, Any] = {}
    max_tokens: int | None = None
    prompt_name: str = "default"


def completion(body: Body) -> Completion:
    """Raises Invalid."""
    return Completion(
        prompt=_needed(body, "query"),
        echo=flag(body, "echo"),
        model=text(body, "model_name"),
        stream=flag(body, "stream"),
        sampling=_sampling(body),
        max_tokens=_limit(body),
        prompt_name=text(body, "prompt_name") or "default",
    )


class Feedback(Struct, frozen=True):
    """`score` from 0 to 100."""

    history_id: str
    score: int
    reason: str


def feedback(body: Body) -> Feedback:
    """Later clients of the 0.2 series call the id message_id. Raises Invalid."""
    name = "chat_history_id" if "chat_history_id" in body else "message_id"
    score = integer(body, "score", 0, 100)
    return Feedback(_needed(body, name), score or 0, text(body, "reason")[:LONGEST_REASON])


def _common(body: Body) -> dict[str, Any]:
    history = body.get("history")
    if type(history) is int:  # so many turns of a conversation that was kept: none is kept here
        history = []
    said = _history(items({"history": history}, "history"))
    return {
        "messages": (*said, Message("user", _needed(body, "query"))),
        "model": text(body, "model_name"),
        "stream": flag(body, "stream"),
        "sampling": _sampling(body),
        "max_tokens": _limit(body),
        "prompt_name": text(body, "prompt_name") or "default",
    }


def _spoken(body: Body) -> Asked:
    """A chat as OpenAI has it."""
    values = items(body, "messages")
    if not values:
        raise Invalid("messages", "must hold one message at least")
    return Asked(
        kind="chat",
        messages=_history(values, "messages"),
        model=text(body, "model"),
        stream=flag(body, "stream"),
        sampling={
            name: check(name, default if body.get(name) is None else body[name])
            for name, default in MODIFIED.items()
        },
        max_tokens=_limit(body),
    )


def hits(body: Body) -> dict[str, Any]:
    """How many chunks, and how near. Raises Invalid."""
    value = body.get("score_threshold")
    value = SCORE_THRESHOLD if value is None else value
    if type(value) not in (int, float) or not 0 <= value <= FARTHEST:
        raise Invalid("score_threshold", "must be a number from 0 to 2")
    top_k = integer(body, "top_k", 1, MOST_HITS) or TOP_K
    return {"top_k": top_k, "score_threshold": float(value)}


def nearness(threshold: float) -> float | None:
    """Chatchat's threshold, a distance from 0 to 2, as a score from 0 to 1, larger is nearer; None
    where it lets everything through."""
    return None if threshold >= FARTHEST else 1 - threshold / FARTHEST


def _sampling(body: Body) -> dict[str, Any]:
    value = body.get("temperature")
    return {"temperature": check("temperature", TEMPERATURE if value is None else value)}


def _limit(body: Body) -> int | None:
    """Zero and below mean no bound."""
    limit = integer(body, "max_tokens", -MAX_TOKENS, MAX_TOKENS)
    return limit if limit is not None and limit > 0 else None


def _needed(body: Body, name: str) -> str:
    value = text(body, name)
    if not value.strip():
        raise Invalid(name, "is missing")
    return value


def _history(values: list[Any], name: str = "history") -> tuple[Message, ...]:
    """Messages, each an object or a pair [role, content]."""
    out = []
    for i, value in enumerate(values):
        at = f"{name}[{i}]"
        if isinstance(value, list) and len(value) == 2:
            value = {"role": value[0], "content": value[1]}
        if not isinstance(value, dict):
            raise Invalid(at, "must be an object with role and content")
        spoken = text(value, "role", "user", at=at + ".")
        role = ROLES.get(SPOKEN.get(spoken, spoken))
        if role is None:
            raise Invalid(at + ".role", f"must be one of {', '.join(ROLES)}")
        out.append(Message(role, text(value, "content", at=at + ".")))
    return tuple(out)
