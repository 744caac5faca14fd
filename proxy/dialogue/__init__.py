"""The four kinds of dialogue: chat, knowledge base, web search and agent.

`events` defines requests and events, and `run` turns the one into the other. `evidence` inserts
documents into a conversation so that its beginning stays stable from turn to turn, `finding` gets
them, and `loop` is the agent.
"""

from ..agent.functions import ToolError
from .events import (
    FOLDERS,
    Bounds,
    Citation,
    DialogueDone,
    DialogueEvent,
    DialogueRequest,
    DialogueStep,
    Kind,
    Reasoning,
    Sources,
    Text,
    Tick,
)
from .finding import EMPTY, Finder
from .run import Dialogues, Running

__all__ = [
    "EMPTY",
    "FOLDERS",
    "Bounds",
    "Citation",
    "DialogueDone",
    "DialogueEvent",
    "DialogueRequest",
    "DialogueStep",
    "Dialogues",
    "Finder",
    "Kind",
    "Reasoning",
    "Running",
    "Sources",
    "Text",
    "Tick",
    "ToolError",
]
