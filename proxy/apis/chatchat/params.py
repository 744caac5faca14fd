"""Parses requests of the routes under /chat, and of /other/completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from ...core.request import Message, Role
from ...core.sampling import check
from ...errors import InvalidParameter
from ..fields import Body, flag, integer, items, model_name, text
from ..openai.answer import MAX_TOKENS

Kind = Literal["chat", "knowledge", "search", "agent"]

# Folder of each kind's prompt templates in templates/dialogues; also the `type` in
# /server/get_prompt_template.
FOLDERS: dict[Kind, str] = {
    "chat": "llm_chat",
    "knowledge": "knowledge_base_chat",
    "search": "search_engine_chat",
    "agent": "agent_chat",
}
ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}
SPOKEN = {"human": "user", "ai": "assistant"}  # langchain's names

TEMPERATURE = 0.7
MODIFIED = {"temperature": 0.95, "top_p": 0.7}  # defaults of the {messages, ...} form
TOP_K = 3
MOST_HITS = 100
SCORE_THRESHOLD = 1.0
FARTHEST = 2.0
LONGEST_REASON = 10_000  # characters


class AnswerParams(Struct, frozen=True, kw_only=True):
    """How the answer is generated and sent."""

    model: str = ""
    stream: bool = False
    sampling: Mapping[str, Any] = {}
    max_tokens: int | None = None
    prompt_name: str = "default"


class DialogueParams(AnswerParams, frozen=True, kw_only=True):
    """A dialogue; the last of `messages` is the question. `base` is the name of a knowledge base or
    the id of a temporary one. `score_threshold` is Chatchat's distance from 0 to 2, lower is
    nearer."""

    kind: Kind
    messages: tuple[Message, ...]
    base: str = ""
    top_k: int = TOP_K
    score_threshold: float = SCORE_THRESHOLD
    engine: str = ""
    split: bool = False


def chat(body: Body) -> DialogueParams:
    """Parses both forms of /chat/chat, {query, history, ...} and {messages, ...}. Raises
    InvalidParameter."""
    return _spoken(body) if "messages" in body else DialogueParams(kind="chat", **_common(body))


def knowledge(body: Body) -> DialogueParams:
    """Raises InvalidParameter."""
    return DialogueParams(
        kind="knowledge", base=_needed(body, "knowledge_base_name"), **_common(body), **hits(body)
    )


def file(body: Body) -> DialogueParams:
    """Parses /chat/file_chat, a knowledge dialogue over a temporary base. Raises
    InvalidParameter."""
    return DialogueParams(
        kind="knowledge", base=_needed(body, "knowledge_id"), **_common(body), **hits(body)
    )


def search(body: Body) -> DialogueParams:
    """Raises InvalidParameter."""
    return DialogueParams(
        kind="search",
        engine=_needed(body, "search_engine_name"),
        top_k=integer(body, "top_k", 1, MOST_HITS) or TOP_K,
        split=flag(body, "split_result"),
        **_common(body),
    )


def agent(body: Body) -> DialogueParams:
    """Raises InvalidParameter."""
    return DialogueParams(kind="agent", **_common(body))


class CompletionParams(AnswerParams, frozen=True, kw_only=True):
    """/other/completion: continues a text without a chat template."""

    prompt: str
    echo: bool = False


def completion(body: Body) -> CompletionParams:
    """Raises InvalidParameter."""
    return CompletionParams(prompt=_needed(body, "query"), echo=flag(body, "echo"), **_answer(body))


class FeedbackParams(Struct, frozen=True):
    """A rating; `score` is from 0 to 100."""

    history_id: str
    score: int
    reason: str


def feedback(body: Body) -> FeedbackParams:
    """Later 0.2.x clients call the id message_id. Raises InvalidParameter."""
    name = "chat_history_id" if "chat_history_id" in body else "message_id"
    score = integer(body, "score", 0, 100)
    return FeedbackParams(_needed(body, name), score or 0, text(body, "reason")[:LONGEST_REASON])


def _common(body: Body) -> dict[str, Any]:
    history = body.get("history")
    if type(history) is int:  # a number of stored turns to use: none are stored
        history = []
    messages = _history(items({"history": history}, "history"))
    question = Message(role="user", content=_needed(body, "query"))
    return {"messages": (*messages, question), **_answer(body)}


def _answer(body: Body) -> dict[str, Any]:
    return {
        "model": model_name(body, "model_name"),
        "stream": flag(body, "stream"),
        "sampling": _sampling(body, {"temperature": TEMPERATURE}),
        "max_tokens": _limit(body),
        "prompt_name": text(body, "prompt_name") or "default",
    }


def _spoken(body: Body) -> DialogueParams:
    """A chat in OpenAI's format."""
    values = items(body, "messages")
    if not values:
        raise InvalidParameter("messages", "must contain at least one message")
    return DialogueParams(
        kind="chat",
        messages=_history(values, "messages"),
        model=model_name(body),
        stream=flag(body, "stream"),
        sampling=_sampling(body, MODIFIED),
        max_tokens=_limit(body),
    )


def hits(body: Body) -> dict[str, Any]:
    """The number of chunks and the distance threshold. Raises InvalidParameter."""
    value = body.get("score_threshold")
    value = SCORE_THRESHOLD if value is None else value
    if type(value) not in (int, float) or not 0 <= value <= FARTHEST:
        raise InvalidParameter("score_threshold", "must be a number from 0 to 2")
    top_k = integer(body, "top_k", 1, MOST_HITS) or TOP_K
    return {"top_k": top_k, "score_threshold": float(value)}


def nearness(threshold: float) -> float | None:
    """Converts Chatchat's threshold, a distance from 0 to 2, to a score from 0 to 1, higher is
    nearer; None if the threshold excludes nothing."""
    return None if threshold >= FARTHEST else 1 - threshold / FARTHEST


def _sampling(body: Body, defaults: Mapping[str, float]) -> dict[str, Any]:
    return {
        name: check(name, default if body.get(name) is None else body[name])
        for name, default in defaults.items()
    }


def _limit(body: Body) -> int | None:
    """Zero and negative values mean no limit."""
    limit = integer(body, "max_tokens", -MAX_TOKENS, MAX_TOKENS)
    return limit if limit is not None and limit > 0 else None


def _needed(body: Body, name: str) -> str:
    value = text(body, name)
    if not value.strip():
        raise InvalidParameter(name, "is missing")
    return value


def _history(values: list[Any], name: str = "history") -> tuple[Message, ...]:
    """Messages, each an object or a [role, content] pair."""
    messages = []
    for i, value in enumerate(values):
        at = f"{name}[{i}]"
        if isinstance(value, list) and len(value) == 2:
            value = {"role": value[0], "content": value[1]}
        if not isinstance(value, dict):
            raise InvalidParameter(at, "must be an object with role and content")
        spoken = text(value, "role", "user", at=at + ".")
        role = ROLES.get(SPOKEN.get(spoken, spoken))
        if role is None:
            raise InvalidParameter(at + ".role", f"must be one of {', '.join(ROLES)}")
        messages.append(Message(role=role, content=text(value, "content", at=at + ".")))
    return tuple(messages)


# Requests of the routes under /llm_model, /server and /other, and their answers. Some take
# `controller_address`, the server that the original calls; it is ignored here.
LOCAL = "local"  # of the client's kinds of models: local, online, worker


class ChatchatModel(Struct, frozen=True):
    """A served model. `n_ctx` is in tokens, 0 if unknown."""

    name: str
    up: bool
    kind: str
    n_ctx: int = 0


class Template(Struct, frozen=True):
    """A prompt template: a folder of templates/dialogues and a name in it."""

    folder: str
    name: str


class Texts(Struct, frozen=True):
    texts: tuple[str, ...]
    model: str
    is_query: bool


def running_models(models: Sequence[ChatchatModel]) -> dict[str, Any]:
    return {model.name: model_config(model) for model in models if model.up}


def configured_models(body: Body, models: Sequence[ChatchatModel]) -> dict[str, Any]:
    """Raises InvalidParameter."""
    wanted = items(body, "types") or [LOCAL]
    # All models are local here; other kinds that the client requests are left out.
    return {LOCAL: {model.name: model_config(model) for model in models}} if LOCAL in wanted else {}


def model_config(model: ChatchatModel) -> dict[str, Any]:
    """A model's configuration, without addresses, paths and keys."""
    values = {
        "online_api": False,
        "model_name": model.name,
        "device": model.kind,
        "running": model.up,
    }
    return {**values, "context_length": model.n_ctx} if model.n_ctx else values


def named_model(body: Body) -> str:
    return text(body, "model_name")


def changed_model(body: Body) -> tuple[str, str]:
    """The model to stop and the one to start instead. Raises InvalidParameter."""
    old, new = text(body, "model_name"), text(body, "new_model_name")
    if not new:
        raise InvalidParameter("new_model_name", "is missing")
    return old, new


def template_of(body: Body) -> Template:
    """Raises InvalidParameter."""
    folder = text(body, "type") or FOLDERS["chat"]
    if folder not in FOLDERS.values():
        raise InvalidParameter("type", f"must be one of {', '.join(FOLDERS.values())}")
    return Template(folder, text(body, "name") or "default")


def texts_of(body: Body) -> Texts:
    """Raises InvalidParameter."""
    values = items(body, "texts")
    if not values or not all(type(value) is str and value for value in values):
        raise InvalidParameter("texts", "must be a list of strings")
    return Texts(tuple(values), text(body, "embed_model"), flag(body, "to_query"))
