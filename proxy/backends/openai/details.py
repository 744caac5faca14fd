"""What servers tell of a model beside ``/v1/models``, in documents of their own.

- Ollama: ``POST /api/show`` (`api/types.go` has the types) tells the model's context, parameters
  and capabilities, ``GET /api/ps`` the context of a loaded model.
- LM Studio: ``GET /api/v1/models`` lists the loaded instances with their settings; in older
  versions, ``/api/v0/models`` has the loaded context.
- SGLang: ``GET /server_info`` has the arguments of its start.
- TabbyAPI: ``GET /v1/model`` is the loaded model.
- koboldcpp: ``GET /api/extra/true_max_context_length``.

All of them are untrusted, and may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from msgspec import Struct

from ...core.request import AUTO, SCHEMAS, TOOLS
from ...errors import ContextExceeded, FormatRefused, GatewayError, UpstreamFault
from ...wire.router import as_count, as_dict
from ..refusals import MAX_SAID, refusal

# Refusals of servers that speak OpenAI's API, as our errors.
#
# These servers report a prompt that is too long in a message only, and each words it differently.
# Clients compact a conversation at that error, so it must not be lost.
# vLLM, SGLang, LM Studio and llama-cpp-python's server, as their sources have them.
_CONTEXT = re.compile(
    r"(?:context length|context window|model length)[^0-9]{0,40}?(?:of|is|\()[^0-9]{0,10}(\d{1,9})",
    re.IGNORECASE,
)
_PROMPT = re.compile(
    r"(?:you requested(?: a total of)?|request has|input \(|prompt \(length|requested tokens \(|"
    r"keep the first) ?(\d{1,9})",
    re.IGNORECASE,
)


# vLLM without a parser of calls; Ollama; OpenAI's models without tools, and others like them.
_NO_AUTO = re.compile(r"auto\W{0,3} tool choice requires", re.IGNORECASE)
_NO_TOOLS = re.compile(
    r"tool_choice=.{0,100} requires --"  # vLLM, of a required and of a named call
    r"|(?:(?:does not|doesn.t|not) support(?:ed)?\b.{0,40}\b(?:tools?|function.call)"
    r"|\b(?:tools?|tool.choice|tool.call\w*|function.call\w*)\b.{0,40}"
    r"(?:not support|unsupported|not available|not enabled))",
    re.IGNORECASE,
)
# These are about the server or its model. Any other may be about the schemas of one request.
_LACKS = re.compile(
    r"auto\W{0,3} tool choice requires|tool_choice=.{0,100} requires --|does not support tools"
    r"|response_format\.type\W{0,3} must be",
    re.IGNORECASE,
)
_NO_SCHEMAS = re.compile(
    r"(?:(?:does not|doesn.t|not) support(?:ed)?\b.{0,60}"
    r"(?:response.format|json.schema|structured|grammar)"
    r"|(?:response.format|json.schema|structured output|grammar).{0,60}"
    r"(?:not support|unsupported|not available|not enabled|must be))",
    re.IGNORECASE,
)


def refused(
    status: int, data: bytes, secret: str = "", formats: frozenset[str] = frozenset()
) -> GatewayError:
    """The error for a status other than 200, for a request that asked for these `formats`."""
    lacked = _lacked(status, data, formats)
    if lacked:
        param = "response_format" if SCHEMAS in lacked else "tools"
        error = refusal(status, data, secret=secret)
        lacks = _LACKS.search(_words(data)) is not None
        return FormatRefused(str(error), lacked, lacks=lacks, param=param, detail=error.detail)
    if status == 400:
        words = _words(data)
        if context := _CONTEXT.search(words):
            n_ctx, asked = int(context[1]), _PROMPT.search(words)
            if asked is None:
                return ContextExceeded(n_ctx + 1, n_ctx, at_least=True)
            return ContextExceeded(int(asked[1]), n_ctx)
    if status == 404:
        return UpstreamFault(
            "the backend does not know this model or endpoint: check its url and model",
            detail=refusal(status, data, secret=secret).detail,
        )
    return refusal(status, data, secret=secret)


def pause_of(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds that a server asks to be left alone (RFC 9110, Retry-After; `now` is seconds of
    the epoch), or OpenAI's header in milliseconds. None if it does not."""
    known = {name.lower(): value.strip() for name, value in headers.items()}
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", known.get(name, "")):
            return float(known[name]) * unit
    try:
        date = parsedate_to_datetime(known.get("retry-after", ""))
        return max(0.0, date.timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _lacked(status: int, data: bytes, formats: frozenset[str]) -> frozenset[str]:
    """The formats that a refusal says the server does not know, of those it was asked for."""
    if not formats or status not in (400, 404, 405, 422, 500, 501):
        return frozenset()
    words = _words(data)
    if formats >= TOOLS:
        if _NO_AUTO.search(words):
            return AUTO
        if _NO_TOOLS.search(words):
            return TOOLS
    return frozenset({SCHEMAS}) if SCHEMAS in formats and _NO_SCHEMAS.search(words) else frozenset()


def _words(data: bytes) -> str:
    return data[: 4 * MAX_SAID].decode("utf-8", "replace")


Ask = Callable[[str, Mapping[str, Any] | None], Mapping[str, Any]]
"""The JSON object at a path below the root; with a body, of a POST. {} if there is none."""

MOST = 64  # entries of a list that are read
_SET_CONTEXT = re.compile(r"^num_ctx\s+(\d{1,9})\s*$", re.MULTILINE)


class Details(Struct, frozen=True, kw_only=True):
    """`n_ctx` and `slots` are 0 where unknown. `by_prompt` are formats of `core.request` that the
    model does not know; `vision` is None where unknown."""

    n_ctx: int = 0
    slots: int = 0
    by_prompt: frozenset[str] = frozenset()
    vision: bool | None = None


NOTHING = Details()


def details(server: str, model: str, ask: Ask) -> Details:
    """What a server of this type tells of a model."""
    read = _READERS.get(server)
    return read(model, ask) if read is not None else NOTHING


def _ollama(model: str, ask: Ask) -> Details:
    shown = ask("/api/show", {"model": model})
    info = as_dict(shown.get("model_info"))
    trained = as_count(info.get(f"{info.get('general.architecture')}.context_length"))
    parameters = shown.get("parameters")
    chosen = _SET_CONTEXT.search(parameters) if isinstance(parameters, str) else None
    loaded = 0
    for entry in _entries(ask("/api/ps", None), "models"):
        if model in (entry.get("name"), entry.get("model")):
            loaded = as_count(entry.get("context_length"))
    skills = shown.get("capabilities")
    if not isinstance(skills, list):  # an older version
        return Details(n_ctx=loaded or (int(chosen[1]) if chosen else 0) or trained)
    return Details(
        n_ctx=loaded or (int(chosen[1]) if chosen else 0) or trained,
        by_prompt=frozenset() if "tools" in skills else TOOLS,
        vision="vision" in skills,
    )


def _lm_studio(model: str, ask: Ask) -> Details:
    for entry in _entries(ask("/api/v1/models", None), "models"):
        for instance in _entries(entry, "loaded_instances"):
            if model in (entry.get("key"), instance.get("id")):
                config = as_dict(instance.get("config"))
                return Details(
                    n_ctx=as_count(config.get("context_length")),
                    slots=as_count(config.get("parallel")),
                    vision=as_dict(entry.get("capabilities")).get("vision") is True,
                )
    for entry in _entries(ask("/api/v0/models", None), "data"):
        if entry.get("id") == model:
            loaded = as_count(entry.get("loaded_context_length"))
            longest = as_count(entry.get("max_context_length"))
            return Details(n_ctx=loaded or longest, vision=entry.get("type") == "vlm")
    return NOTHING


def _sglang(model: str, ask: Ask) -> Details:
    info = ask("/server_info", None) or ask("/get_server_info", None)
    no_parser = "tool_call_parser" in info and not info["tool_call_parser"]
    return Details(
        slots=as_count(info.get("max_running_requests")),
        by_prompt=AUTO if no_parser else frozenset(),
    )


def _tabby(model: str, ask: Ask) -> Details:
    loaded = as_dict(ask("/v1/model", None).get("parameters"))
    return Details(
        n_ctx=as_count(loaded.get("max_seq_len")), slots=as_count(loaded.get("max_batch_size"))
    )


def _koboldcpp(model: str, ask: Ask) -> Details:
    return Details(n_ctx=as_count(ask("/api/extra/true_max_context_length", None).get("value")))


def _entries(document: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    entries = document.get(field)
    return [as_dict(entry) for entry in entries[:MOST]] if isinstance(entries, list) else []


_READERS: Mapping[str, Callable[[str, Ask], Details]] = {
    "ollama": _ollama,
    "lm studio": _lm_studio,
    "sglang": _sglang,
    "tabbyapi": _tabby,
    "koboldcpp": _koboldcpp,
}

_GAUGES = re.compile(
    rb"^(vllm:num_requests_running|vllm:num_requests_waiting|sglang:num_running_reqs"
    rb"|sglang:num_queue_reqs)(?:\{[^}\n]*\})? (\d{1,9})(?:\.\d+)?\s*$",
    re.MULTILINE,
)
MAX_METRICS = 1 << 20  # bytes of metrics that are read


def queue(metrics: bytes) -> tuple[int, int] | None:
    """The requests that a vLLM or SGLang runs and queues, by its ``/metrics``; None if these do not
    tell."""
    counts = {b"run": 0, b"wait": 0}
    found = _GAUGES.findall(metrics[:MAX_METRICS])
    for name, count in found:
        counts[b"run" if b"running" in name else b"wait"] += int(count)
    return (counts[b"run"], counts[b"wait"]) if found else None
