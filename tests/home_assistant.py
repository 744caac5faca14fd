"""The requests of Home Assistant's voice assistants, in the form of its public source
(homeassistant/helpers/llm.py, version 2025.8): a clock at the head, then instructions, the area of
the satellite, and the exposed devices as YAML; with the intents as tools. The words are ours.

`recorded` has utterances of several satellites, each as the bodies of its two requests: the
question, and the same with the call and its result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

Body = dict[str, Any]

AREAS = {"Kitchen": "Ground", "Living room": "Ground", "Bedroom": "Upper"}  # with a satellite each
ROOMS = (*AREAS, "Hall", "Bathroom", "Office", "Garage", "Garden", "Attic", "Cellar")
KINDS = {
    "Ceiling light": "light",
    "Floor lamp": "light",
    "Socket": "switch",
    "Blind": "cover",
    "Thermostat": "climate",
    "Motion": "binary_sensor",
    "Temperature": "sensor",
    "Speaker": "media_player",
    "Fan": "fan",
    "Door": "lock",
}
# Beginnings of the lines that change, for `late_binding`.
CHANGING = ("Current time is", "You are in area")

_INTENTS = {
    "HassTurnOn": "Turns on, opens or presses a device",
    "HassTurnOff": "Turns off or closes a device",
    "HassLightSet": "Sets the brightness or color of a light",
    "HassSetPosition": "Sets the position of a cover",
    "HassClimateSetTemperature": "Sets the target temperature",
    "HassMediaPause": "Pauses a media player",
    "HassSetVolume": "Sets the volume of a media player",
    "HassCancelAllTimers": "Cancels all timers",
}


def system(area: str, minute: int, devices: int) -> str:
    """The system message to the satellite of this area, so many minutes after seven."""
    listed = islice(
        ((kind, room, n) for n in range(1, 99) for room in ROOMS for kind in KINDS), devices
    )
    yaml = "".join(
        f"- names: {room} {kind.lower()} {number}\n  domain: {KINDS[kind]}\n  areas: {room}\n"
        for kind, room, number in listed
    )
    clock = f"{7 + minute // 60:02}:{minute % 60:02}:00"
    return "\n".join(
        (
            f"Current time is {clock}. Today's date is 2026-11-26.",
            "You are a voice assistant for Home Assistant.",
            "Tell the truth about the world, in plain text, and be short.",
            "",
            "To control the home, call the intent tools. Name a device by its name and domain, and"
            " an area by its name and domain.",
            f"You are in area {area} (floor {AREAS[area]}) and all generic commands like"
            " 'turn on the lights' should target this area.",
            "This device is not able to start timers.",
            "The state of a device is asked with the tool GetLiveContext.",
            "Static Context: An overview of the areas and the devices in this smart home:",
            yaml,
        )
    )


def tools() -> list[Body]:
    text = {"type": "string"}
    slots = {
        "name": text,
        "area": text,
        "floor": text,
        "domain": {"type": "array", "items": {"type": "string", "enum": [*set(KINDS.values())]}},
    }
    slots["domain"]["items"]["enum"].sort()
    functions = [
        {"name": name, "description": says, "parameters": {"type": "object", "properties": slots}}
        for name, says in _INTENTS.items()
    ]
    live = {"name": "GetLiveContext", "description": "The state of all devices"}
    functions.append(live | {"parameters": {"type": "object", "properties": {}}})
    return [{"type": "function", "function": function} for function in functions]


def recorded(utterances: int, devices: int = 200) -> Iterator[tuple[Body, Body]]:
    for minute, area in zip(range(utterances), cycle(AREAS)):
        kind = [*KINDS][minute % len(KINDS)]
        name = f"{area} {kind.lower()} 1"
        messages: list[Body] = [
            {"role": "system", "content": system(area, minute, devices)},
            {"role": "user", "content": f"Switch the {kind.lower()} on, please."},
        ]
        arguments = json.dumps({"name": name, "domain": [KINDS[kind]]})
        call = {"name": "HassTurnOn", "arguments": arguments}
        done = {"speech": {}, "response_type": "action_done", "data": {"success": [{"name": name}]}}
        later = [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": f"call_{minute}", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": f"call_{minute}", "content": json.dumps(done)},
        ]
        both = {"tools": tools(), "temperature": 0}
        yield {**both, "messages": messages}, {**both, "messages": [*messages, *later]}
