"""Turns a request into a stream of events, whatever its dialect and backend.

    resolve the model -> render the prompt -> for each choice: wait for a slot, run, post-process

`gateway` makes tasks from a request, `answer` runs its choices, and `attempt` runs one choice, from
the queue to its end, on a `leased_slot`. `adapt` fits a task to a backend, `generation` turns its
runs into an answer. `choosing` finds the model of a route with rules, `seeing` makes texts of
images. `embedder` makes embeddings and rankings, and passes on requests of other APIs unchanged.
`prewarm` evaluates prompts without answers.
"""

from ..scheduling.state import Placement
from ..scheduling.view import View
from .answer import Answer
from .choosing import Chosen
from .context import Caller, GatewayContext, Info
from .embedder import Embedder, Forwarder
from .gateway import Gateway
from .generation import GenerationSettings

__all__ = [
    "Answer",
    "Caller",
    "Chosen",
    "Embedder",
    "Forwarder",
    "Gateway",
    "GatewayContext",
    "GenerationSettings",
    "Info",
    "Placement",
    "View",
]
