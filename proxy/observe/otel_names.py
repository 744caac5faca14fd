"""What spans are called, by OpenTelemetry's conventions for generative models, in two versions.

Everything of `gen_ai` is in development. Viewers read the names of 1.41, the last version in the
main repository of the conventions; those added since (`latest`) where the standard's variable
`OTEL_SEMCONV_STABILITY_OPT_IN` contains `gen_ai_latest_experimental`:
https://github.com/open-telemetry/semantic-conventions-genai

Only the span of the model's call may name a model: viewers count the tokens of each span that does.
Tokens written to a cache are left out: all evaluated ones are, and viewers take them off the
prompt's.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, get_args

from ..core.events import FinishReason
from ..core.mcp import function_name
from ..core.request import CompletionRequest
from ..gateway import Info
from ..web.observability import Record

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
SCHEMA = "https://opentelemetry.io/schemas/1.41.0"
LATEST = "https://opentelemetry.io/schemas/gen-ai/1.42.0"
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
MCP_METHOD = "mcp.method.name"
CLIENT = frozenset({"gen_ai.request.model", MCP_METHOD})  # attributes of calls to other programs
SAMPLING = ("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty")
REASONS = frozenset(get_args(FinishReason))
LONGEST = 256  # characters of a text that is no content
MOST_CONTENT = 65_536  # characters of the messages of one side


def enabled(variables: Mapping[str, str]) -> bool:
    """Whether the variables of the process name a collector, and do not switch traces off."""
    off = variables.get("OTEL_SDK_DISABLED", "").lower() == "true"
    off = off or variables.get("OTEL_TRACES_EXPORTER", "").lower() == "none"
    return not off and any(variables.get(name) for name in ENDPOINTS)


def share(variables: Mapping[str, str]) -> float | None:
    """The share of requests that the usual sampler takes, if it is the one of the variables."""
    if variables.get("OTEL_TRACES_SAMPLER", "").lower() != "parentbased_traceidratio":
        return None
    try:
        return float(variables.get("OTEL_TRACES_SAMPLER_ARG", "1"))
    except ValueError:
        return None  # the SDK says so


def schema(variables: Mapping[str, str]) -> str:
    """The version of the conventions that the variables ask for."""
    options = variables.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").replace(" ", "")
    return LATEST if "gen_ai_latest_experimental" in options.split(",") else SCHEMA


def captures(variables: Mapping[str, str]) -> bool:
    """Whether the variables ask for contents in spans."""
    return variables.get(CAPTURE, "").lower() in ("true", "span_only", "span_and_event")


def given(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Those with a value, texts up to their bound."""
    bounded = ((k, v[:LONGEST] if type(v) is str else v) for k, v in attributes.items())
    return {name: value for name, value in bounded if value}


def fault(record: Record) -> str:
    """Why the request failed, "" if it did not."""
    outcome = record.info.outcome
    if record.status < 400 and (not outcome or outcome in REASONS):
        return ""
    return outcome or str(record.status)


def everywhere(record: Record, session: str) -> dict[str, Any]:
    """The attributes of every span: viewers look for user and session in each."""
    digest = sha256(f"{record.key}\0{session}".encode()).hexdigest()[:32] if session else ""
    return given({"user.id": record.key, "session.id": digest})


def of_request(record: Record) -> dict[str, Any]:
    return given(
        {
            "http.request.method": record.method,
            "http.route": record.route,
            "http.response.status_code": record.status,
            "url.scheme": "http",
            "user_agent.original": record.agent,
            "error.type": fault(record),
        }
    )


def of_slot(info: Info) -> dict[str, Any]:
    """Where an answer was placed, what was expected there, and why it was not where it had been."""
    attributes = {
        "slotproxy.backend": info.backend,
        "slotproxy.tier": info.tier,
        "slotproxy.passed": [" ".join(pair)[:LONGEST] for pair in info.passed],
        "slotproxy.continued": info.continued,
        "slotproxy.compacted_messages": info.compacted,
    }
    if (placed := info.placement) is not None:
        attributes |= {
            "slotproxy.prompt_expected": placed.prompt,
            "slotproxy.cached_expected": placed.expected,
            "slotproxy.turns_before": placed.turns,
            "slotproxy.side_job": placed.request.background,
            "slotproxy.replaced": placed.replaced,
            "slotproxy.replaced_is_saved": placed.saves or placed.keeps,
            "slotproxy.first_difference": placed.shared if placed.shared != placed.kept_turn else 0,
        }
        if (loss := placed.loss) is not None:
            attributes |= {"slotproxy.lost": loss.why, "slotproxy.lost_to": loss.key}
    return given(attributes) | {"slotproxy.slot": info.slot}


def of_tool(request: CompletionRequest | None = None, contents: bool = False) -> dict[str, Any]:
    """The tool whose result ends a request, if one does; its contents only by opt-in."""
    attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.type": "function"}
    turns = request.messages[-2:] if request is not None else ()
    if request is None or len(turns) < 2 or not turns[0].tool_calls:
        return attributes
    call = turns[0].tool_calls[-1]
    name, server = call.name, next((t.server for t in request.tools if t.name == call.name), "")
    if server:
        name = name.removeprefix(function_name(server, ""))
        attributes[MCP_METHOD] = "tools/call"
    attributes |= given({"gen_ai.tool.name": name, "gen_ai.tool.call.id": call.id})
    if contents:
        texts = {"arguments": call.arguments, "result": turns[1].content}
        attributes |= {f"gen_ai.tool.call.{k}": v[:MOST_CONTENT] for k, v in texts.items()}
    return attributes


def of_parameters(request: CompletionRequest, latest: bool) -> dict[str, Any]:
    attributes = {
        "gen_ai.operation.name": "chat" if request.is_chat else "text_completion",
        "gen_ai.request.model": request.model,
        "gen_ai.request.n": request.choices,
        "gen_ai.request.choice.count": request.choices if request.choices > 1 else 0,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.stop_sequences": [text[:LONGEST] for text in request.stop[:16]],
        "gen_ai.output.type": "text" if request.output.kind == "text" else "json",
        "gen_ai.request.reasoning.level": request.reasoning_effort if latest else "",
    }
    numbers = {name: request.sampling.get(name) for name in SAMPLING}
    return given(attributes) | {
        f"gen_ai.request.{name}": number
        for name, number in numbers.items()
        if type(number) in (int, float)
    }


def of_call(record: Record, took: float, first: float, latest: bool) -> dict[str, Any]:
    """What became of it. `first` is when the first token came, in seconds since the request
    arrived, 0 if none did."""
    info, usage, route = record.info, record.info.usage, record.route
    prefill = info.evaluating or max(0.0, info.first_token - info.placed)
    decode = info.writing or max(0.0, info.last_token - info.first_token)
    kind = "embeddings" if "embed" in route else "retrieval" if "rerank" in route else ""
    counts = {
        "gen_ai.usage.input_tokens": usage.prompt,
        "gen_ai.usage.output_tokens": usage.completion,
        # As vLLM and SGLang write them, so that dashboards made for these work.
        "gen_ai.latency.e2e": took,
        "gen_ai.latency.time_in_queue": info.queue_wait,
        "gen_ai.latency.time_in_scheduler": max(0.0, info.placed - info.queue_wait),
        "gen_ai.latency.time_in_model_prefill": prefill,
        "gen_ai.latency.time_in_model_decode": decode,
        "gen_ai.latency.time_in_model_inference": prefill + decode,
        "gen_ai.latency.time_to_first_token": first,
    }
    attributes = {
        "gen_ai.operation.name": kind or "generate_content",
        "gen_ai.request.id": record.id,
        "gen_ai.request.model": info.model,
        "gen_ai.response.model": info.model,
        "gen_ai.response.finish_reasons": [info.outcome if info.outcome in REASONS else "error"],
        "gen_ai.response.time_to_first_chunk": first,
        "gen_ai.usage.cache_read.input_tokens": usage.cached,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning,
        "gen_ai.request.stream": record.stream and latest,
        "gen_ai.conversation.compacted": info.compacted > 0 and latest,
        "error.type": fault(record),
    }
    return counts | given(attributes)
