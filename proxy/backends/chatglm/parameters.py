"""Converts sampling fields for chatglm_cpp, and refuses those it does not support.

It supports temperature, top_k, top_p and a repetition penalty over all tokens so far. A parameter
with a neutral value is accepted, as is a hint; any other is refused by name, or ignored if
`lenient`.
"""

from __future__ import annotations

from msgspec import Struct

from ...core.sampling import FIELDS, needed
from ...core.task import Task
from ...errors import InvalidParameter, Unsupported
from ...prompting.constraints import must_call
from .prompt import WITH_TOOLS, opening
from .protocol import Family

# The library's own defaults, which its server uses too.
TEMPERATURE, TOP_P, TOP_K, PENALTY = 0.95, 0.7, 0, 1.0
COLDEST = 0.001  # lower values overflow the probabilities; this is practically greedy
HONOURED = frozenset(("temperature", "top_p", "top_k", "repeat_penalty", "repeat_last_n"))
LACKS = frozenset(FIELDS) - HONOURED - {"seed"}  # a seed has a warning of its own


class Sampling(Struct, frozen=True):
    """The fields of protocol.Generate."""

    temperature: float
    top_p: float
    top_k: int
    repeat_penalty: float


def sampling(task: Task, lenient: bool) -> Sampling:
    """Convert the sampling fields. Raises InvalidParameter, Unsupported."""
    fields = task.sampling
    for name, value in fields.items():
        if name not in HONOURED and needed(name, value) and not lenient:
            raise _unsupported(name)
    temperature = fields.get("temperature", TEMPERATURE)
    top_p = fields.get("top_p", TOP_P)
    penalty = fields.get("repeat_penalty", PENALTY)
    last_n = fields.get("repeat_last_n", -1)
    if last_n == 0:
        penalty = 1.0
    elif last_n > 0 and penalty != 1 and not lenient:
        raise _unsupported("repeat_last_n")
    if penalty <= 0:
        raise InvalidParameter("repeat_penalty", "must be greater than 0")
    # For the library, top_p 0 means no limit; for everybody else, only the likeliest token.
    greedy = temperature < COLDEST or top_p == 0
    return Sampling(0.0 if greedy else temperature, top_p, fields.get("top_k", TOP_K), penalty)


def check(task: Task, family: Family, lenient: bool) -> None:
    """Refuse features other than sampling that ChatGLM does not support. Raises Unsupported."""
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
            "this model's backend can be forced to call one specific tool, not any one of several",
            param="tool_choice",
        )


def _unsupported(name: str) -> Unsupported:
    return Unsupported(f"{name} is not supported by this model's backend (chatglm_cpp)", param=name)
