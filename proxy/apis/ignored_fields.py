"""Fields of a request that its dialect does not know: each that may change the answer is reported.

So nobody takes an answer for one that obeys them. Not reported are a few well-known fields that
change nothing here, and values that switch a field off.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from .fields import Body
from .openai.tools import plain

# They say who asks, what it costs, where it is cached and how it is logged, or only hint.
HARMLESS = frozenset(
    "anthropic_beta anthropic_version betas cache_control cache_prompt cache_salt chat_id"
    " client_metadata extra_headers guided_decoding_backend id_slot keep_alive metadata"
    " prediction priority prompt_cache_key prompt_cache_options prompt_cache_retention request_id"
    " safety_identifier service_tier session_id slot_id speculative.n_max speculative.n_min"
    " speculative.p_min stream stream_options t_max_prompt_ms timeout usage user".split()
)
OFF: tuple[Any, ...] = (None, False, "", [], {})
# Values that change nothing, for fields whose empty values do.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "include_reasoning": (None, True),
    "parallel_tool_calls": (None, True),
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "truncation": (None, "disabled"),
    "verbosity": (None, "", "medium"),
}


def ignored_fields(body: Body, known: Set[str], at: str = "") -> tuple[str, ...]:
    """A warning for each field of the body, or of its object at the path `at`, that is not
    `known`."""
    if body.keys() <= known:
        return ()
    unknown = body.keys() - known - HARMLESS
    return tuple(
        f"{at}{plain(name)} is ignored"
        for name, value in body.items()
        if name in unknown and value not in NEUTRAL.get(name, OFF)
    )
