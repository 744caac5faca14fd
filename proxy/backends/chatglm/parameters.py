"""The sampler of chatglm_cpp in terms of the canonical names, and what it cannot do.

It knows temperature, top_k, top_p and a repetition penalty over all tokens so far. A parameter that
says what happens anyway is let through, as is a hint; any other is refused by name, or left out if
`lenient`.
"""

from __future__ import annotations

from msgspec import Struct

from ...core.invalid import Invalid
from ...core.sampling import FIELDS, needed
from ...core.task import Task
from ...errors import Unsupported
from ...prompting.bind import must_call
from .prompt import WITH_TOOLS, opening
from .protocol import Family

# The library's own defaults, which its server has too.
TEMPERATURE, TOP_P, TOP_K, PENALTY = 0.95, 0.7, 0, 1.0
COLDEST = 0.001  # below it probabilities overflow; it is greedy for all that can be seen
HONOURED = frozenset(("temperature", "top_p", "top_k", "repeat_penalty", "repeat_last_n"))
LACKS = frozenset(FIELDS) - HONOURED - {"seed"}  # a seed is told of by itself


class Sampling(Struct, frozen=True):
    """As protocol.Generate has it."""

    temperature: float
    top_p: float
    top_k: int
    repeat_penalty: float


def sampling(task: Task, lenient: bool) -> Sampling:
    """Raises Invalid, Unsupported."""
    asked = task.sampling
    for name, value in asked.items():
        if name not in HONOURED and needed(name, value) and not lenient:
            raise _unsupported(name)
    temperature = asked.get("temperature", TEMPERATURE)
    top_p = asked.get("top_p", TOP_P)
    penalty = asked.get("repeat_penalty", PENALTY)
    last_n = asked.get("repeat_last_n", -1)
    if last_n == 0:
        penalty = 1.0
    elif last_n > 0 and penalty != 1 and not lenient:
        raise _unsupported("repeat_last_n")
    if penalty <= 0:
        raise Invalid("repeat_penalty", "must be above 0")
    # To the library top_p 0 means no limit; to everybody else, only the likeliest.
    greedy = temperature < COLDEST or top_p == 0
    return Sampling(0.0 if greedy else temperature, top_p, asked.get("top_k", TOP_K), penalty)


def check(task: Task, family: Family, lenient: bool) -> None:
    """Refuse what a request wants besides sampling and no ChatGLM can give. Raises Unsupported."""
    request = task.request
    if task.suffix is not None:
        raise _unsupported("suffix")
    if lenient:
        return
    if task.logprobs is not None:
        raise _unsupported("logprobs")
    if request.output.kind != "text":
        raise _unsupported("response_format")
    if must_call(request) and family in WITH_TOOLS and not opening(request, family):
        raise Unsupported(
            "the backend of this model can be made to call one tool, not any of several",
            param="tool_choice",
        )


def _unsupported(name: str) -> Unsupported:
    return Unsupported(f"{name} is not known to the backend of this model, chatglm_cpp", param=name)
