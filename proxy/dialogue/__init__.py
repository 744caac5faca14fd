"""The four dialogues: chat, knowledge base, search engine, agent; one seam for every client.

`values` is what is asked and what happens, `run` makes one of the other, `evidence` lays documents
into a conversation so that its head stays the same from turn to turn, `finding` is where they come
from, `loop` is the agent.
"""

from .evidence import EMPTY
from .finding import Finder
from .run import Dialogues, Running
from .values import (
    FOLDERS,
    Bounds,
    Citation,
    DialogueEvent,
    DialogueRequest,
    Done,
    Kind,
    Reasoning,
    Sources,
    Step,
    Text,
    Tick,
)

__all__ = [
    "EMPTY",
    "FOLDERS",
    "Bounds",
    "Citation",
    "DialogueEvent",
    "DialogueRequest",
    "Dialogues",
    "Done",
    "Finder",
    "Kind",
    "Reasoning",
    "Running",
    "Sources",
    "Step",
    "Text",
    "Tick",
]
