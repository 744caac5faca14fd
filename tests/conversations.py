"""Conversations as clients send them: bodies of /v1/chat/completions, for tests of prompts.

Each has something that a chat template may treat differently. The texts of a conversation are
unlike each other, so that a prompt shows which of them it has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Body = dict[str, Any]

WEATHER: Body = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The name of the city"},
                "days": {"type": "integer", "minimum": 1, "default": 3},
            },
            "required": ["city"],
        },
    },
}
DICE: Body = {
    "type": "function",
    "function": {
        "name": "roll_dice",
        "description": "Rolls dice",
        "parameters": {
            "type": "object",
            "properties": {
                "sides": {"type": "integer", "enum": [6, 20]},
                "note": {"type": "string"},
            },
        },
    },
}
TOOLS = [WEATHER, DICE]


def _said(role: str, content: Any, **more: Any) -> Body:
    return {"role": role, "content": content, **more}


def _call(id: str, name: str = "get_weather", **arguments: Any) -> Body:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": id, "type": "function", "function": function}


def _called(*calls: Body, content: Any = None, **more: Any) -> Body:
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **more}


def _result(id: str, content: Any = "21 degrees") -> Body:
    return {"role": "tool", "tool_call_id": id, "content": content}


def _parts(*texts: str) -> list[Body]:
    return [{"type": "text", "text": text} for text in texts]


NINE = ("abcDEF123", "ghiJKL456")
"""Ids of calls as Mistral's templates want them."""
CLIENTS = ("call_0123456789abcdef01234567", "toolu_01A09q90qw90lq917835lq9")
"""Ids of calls as OpenAI and Anthropic write them."""

SYSTEM = _said("system", "You are a careful gardener.")
ASK = _said("user", "When do I plant tulips?")
ANSWER = _said("assistant", "Plant them in October.")
MORE = _said("user", "And how deep?")
WEATHER_ASK = _said("user", "How is the weather at home?")

PLAIN: Mapping[str, Body] = {
    "plain": {"messages": [ASK]},
    "turns": {"messages": [ASK, ANSWER, MORE]},
    "system": {"messages": [SYSTEM, ASK, ANSWER, MORE]},
    "developer": {"messages": [_said("developer", "Answer briefly."), ASK]},
    "late system": {
        "messages": [SYSTEM, ASK, ANSWER, _said("system", "It is autumn now."), MORE],
    },
    "system last": {"messages": [ASK, ANSWER, MORE, _said("system", "Answer in rhymes.")]},
    "two systems": {"messages": [SYSTEM, _said("system", "Use metric units."), ASK]},
    "users in a row": {"messages": [SYSTEM, ASK, _said("user", "I mean the red ones."), MORE]},
    "assistant first": {"messages": [_said("assistant", "Welcome, gardener!"), ASK]},
    "text parts": {
        "messages": [
            _said("system", _parts("You are terse.", "You like lists.")),
            _said("user", _parts("First paragraph.", "Second paragraph.")),
            _said("assistant", _parts("An answer in one part.")),
            _said("user", _parts("Go on.")),
        ]
    },
    "unicode": {"messages": [_said("user", 'Straße, 東京, 🌷 and naïve "quotes" <b>&amp;</b>\t…')]},
    "empty contents": {"messages": [_said("system", ""), ASK, _said("assistant", ""), MORE]},
    "white space": {"messages": [_said("user", "\n  indented\n\n"), ANSWER, _said("user", " x ")]},
    "prefill": {"messages": [ASK, _said("assistant", "Plant them")]},
    "thinking off": {
        "messages": [SYSTEM, ASK],
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "effort none": {"messages": [ASK], "reasoning_effort": "none"},
    "effort high": {"messages": [SYSTEM, ASK], "reasoning_effort": "high"},
    "thought turns": {
        "messages": [
            ASK,
            _said("assistant", "In autumn.", reasoning_content="Bulbs need the cold."),
            MORE,
            _said("assistant", "A hand deep.", reasoning_content="Thrice their height."),
            _said("user", "Thanks! And garlic?"),
        ]
    },
}

CALLING: Mapping[str, Body] = {
    "tools": {"messages": [SYSTEM, WEATHER_ASK], "tools": TOOLS},
    "tools, no system": {"messages": [WEATHER_ASK], "tools": [WEATHER]},
    "tool choice none": {
        "messages": [SYSTEM, WEATHER_ASK],
        "tools": TOOLS,
        "tool_choice": "none",
    },
    "required": {"messages": [WEATHER_ASK], "tools": TOOLS, "tool_choice": "required"},
    "call and result": {
        "messages": [
            SYSTEM,
            WEATHER_ASK,
            _called(_call(NINE[0], city="Oslo")),
            _result(NINE[0], '{"temperature": 21}'),
        ],
        "tools": TOOLS,
    },
    "answered call": {
        "messages": [
            WEATHER_ASK,
            _called(_call(NINE[0], city="Oslo", days=2), content="Let me see."),
            _result(NINE[0]),
            _said("assistant", "It is 21 degrees."),
            _said("user", "And tomorrow?"),
        ],
        "tools": TOOLS,
    },
    "two calls": {
        "messages": [
            WEATHER_ASK,
            _called(
                _call(NINE[0], city="Oslo"), _call(NINE[1], "roll_dice", sides=6, note="for chess")
            ),
            _result(NINE[0]),
            _result(NINE[1], "4"),
        ],
        "tools": TOOLS,
    },
    "two rounds": {
        "messages": [
            WEATHER_ASK,
            _called(_call(NINE[0], city="Oslo")),
            _result(NINE[0]),
            _called(_call(NINE[1], "roll_dice", sides=20)),
            _result(NINE[1], "17"),
        ],
        "tools": TOOLS,
    },
    "foreign ids": {
        "messages": [
            WEATHER_ASK,
            _called(_call(CLIENTS[0], city="Bergen")),
            _result(CLIENTS[0]),
            _said("assistant", "Mild."),
            _said("user", "And in Rome?"),
            _called(_call(CLIENTS[1], city="Rome")),
            _result(CLIENTS[1], "hot"),
        ],
        "tools": TOOLS,
    },
    "thought calls": {
        "messages": [
            WEATHER_ASK,
            _called(_call(NINE[0], city="Oslo"), reasoning_content="I must look it up."),
            _result(NINE[0]),
            _called(_call(NINE[1], "roll_dice", sides=6), reasoning_content="Now the dice."),
            _result(NINE[1], "5"),
        ],
        "tools": TOOLS,
    },
    "thought earlier calls": {
        "messages": [
            WEATHER_ASK,
            _called(_call(NINE[0], city="Oslo"), reasoning_content="I must look it up."),
            _result(NINE[0]),
            _said("assistant", "It is mild.", reasoning_content="21 is mild."),
            _said("user", "Now roll dice."),
        ],
        "tools": TOOLS,
    },
    "long result": {
        "messages": [
            WEATHER_ASK,
            _called(_call(NINE[0], city="Oslo")),
            _result(NINE[0], "\n".join(f'line {i}: "{i * i}" <{i}>' for i in range(2000))),
        ],
        "tools": TOOLS,
    },
    "result parts": {
        "messages": [
            _said("user", _parts("How is the weather at home?")),
            _called(_call(NINE[0], city="Oslo"), content=_parts("Looking.")),
            _result(NINE[0], _parts("cold", "windy")),
            _said("user", _parts("A note beside the result.")),
        ],
        "tools": TOOLS,
    },
}

ALL: Mapping[str, Body] = {**PLAIN, **CALLING}


def texts(body: Body) -> Sequence[str]:
    """The parts of a body that its prompt must have: the texts of its messages, the arguments of
    its calls that are texts, and the names and descriptions of its tools."""
    tools = [tool["function"] for tool in body.get("tools", ())]
    out = [tool[key] for tool in tools for key in ("name", "description")]
    for message in body["messages"]:
        content = message["content"] or ""
        parts = content if isinstance(content, list) else [{"text": content}]
        out += [part["text"].strip() for part in parts]
        for call in message.get("tool_calls", ()):
            arguments = json.loads(call["function"]["arguments"])
            out += [value for value in arguments.values() if isinstance(value, str)]
    return [text for text in out if text]
