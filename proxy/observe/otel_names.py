"""The names of OpenTelemetry's conventions for generative models, in two versions.

Everything of `gen_ai` is in development. Viewers read the names of the last version in the main
repository of the conventions; what was renamed since is used where the standard's variable
`OTEL_SEMCONV_STABILITY_OPT_IN` contains `gen_ai_latest_experimental`:
https://github.com/open-telemetry/semantic-conventions-genai

A name of our own begins with `slotproxy.`, one of vLLM's with `gen_ai.latency.`. Tokens written to
a cache are left out: every evaluated token is, and viewers would take them off the prompt's.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

LATEST = "gen_ai_latest_experimental"


class Names(Struct, frozen=True, kw_only=True):
    """What differs between the versions. A name that is "" is not written."""

    schema: str
    stream: str
    compacted: str
    reasoning_level: str
    # Messages of an answer repeat how it ended.
    message_ends: bool


OF_1_41 = Names(
    schema="https://opentelemetry.io/schemas/1.41.0",
    stream="",
    compacted="",
    reasoning_level="",
    message_ends=True,
)
OF_LATEST = Names(
    schema="https://opentelemetry.io/schemas/gen-ai/1.42.0",
    stream="gen_ai.request.stream",
    compacted="gen_ai.conversation.compacted",
    reasoning_level="gen_ai.request.reasoning.level",
    message_ends=False,
)


ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def enabled(variables: Mapping[str, str]) -> bool:
    """Whether the variables of the process name a collector, and do not switch traces off."""
    if variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if variables.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return False
    return any(variables.get(name) for name in ENDPOINTS)


def names(variables: Mapping[str, str]) -> Names:
    """The version that the variables of the process ask for."""
    wanted = variables.get("OTEL_SEMCONV_STABILITY_OPT_IN", "")
    return OF_LATEST if LATEST in wanted.replace(" ", "").split(",") else OF_1_41


# Of every span.
USER = "user.id"
SESSION = "session.id"
ERROR = "error.type"

# Of the span of the request.
METHOD = "http.request.method"
ROUTE = "http.route"
STATUS = "http.response.status_code"
SCHEME = "url.scheme"
AGENT = "user_agent.original"
CALLER_TRACE = "caller.trace_id"
CALLER_SPAN = "caller.span_id"

# Of the one span that is the call of the model. Viewers count the tokens of every span that names
# a model, so no other span may.
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
CONVERSATION = "gen_ai.conversation.id"
OUTPUT_TYPE = "gen_ai.output.type"
CHOICES = "gen_ai.request.choice.count"
MAX_TOKENS = "gen_ai.request.max_tokens"
STOP = "gen_ai.request.stop_sequences"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
# Parameters of sampling, by our names.
SAMPLING: Mapping[str, str] = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
}

# Contents, with the standard's opt-in alone.
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
CAPTURES = ("true", "span_only", "span_and_event")
INPUT = "gen_ai.input.messages"
OUTPUT = "gen_ai.output.messages"

# As vLLM and SGLang name them, so that dashboards made for these work.
REQUEST_ID = "gen_ai.request.id"
REQUEST_N = "gen_ai.request.n"
IN_QUEUE = "gen_ai.latency.time_in_queue"
TO_FIRST_TOKEN = "gen_ai.latency.time_to_first_token"
E2E = "gen_ai.latency.e2e"
IN_SCHEDULER = "gen_ai.latency.time_in_scheduler"
IN_PREFILL = "gen_ai.latency.time_in_model_prefill"
IN_DECODE = "gen_ai.latency.time_in_model_decode"
IN_INFERENCE = "gen_ai.latency.time_in_model_inference"

# Langfuse's name for the time of the first token.
COMPLETION_START = "langfuse.observation.completion_start_time"

# Ours.
BACKEND = "slotproxy.backend"
TIER = "slotproxy.tier"
PASSED = "slotproxy.passed"
SLOT = "slotproxy.slot"
PLACE = "slotproxy.queue.place"
SECONDS = "slotproxy.seconds"
CACHED = "slotproxy.tokens.cached"
EVALUATED = "slotproxy.tokens.evaluated"
TOKENS = "slotproxy.tokens"
SPEED = "slotproxy.tokens_per_second"
CONTINUED = "slotproxy.continued"
COMPACTED = "slotproxy.compacted_messages"
