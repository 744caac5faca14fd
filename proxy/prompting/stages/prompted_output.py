"""Formats of answers for servers that do not enforce them.

The messages describe the tools, in our generic form, and the schema of the document. An answer that
looks like one of them is held back until it is complete. If it is wrong, the model gets one more
try, with a message that names the fault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from ...core.events import Batch, Failed, Finished, TextDelta, ToolCallDelta
from ...core.request import CompletionRequest, Message, describes_document, describes_tools
from ..constraints import JSON, NO_ARGUMENTS, callable_tools, document_schema, most_calls, must_call
from ..formats import generic
from ..prompt import tool_dict
from .endings import InvalidOutput, Validator, joined

QUOTED = 4000  # characters of a wrong answer that the model is shown
_FRAME = re.compile(r'\s*(?:```(?:json)?\s*)?\{\s*"tool_calls?"')
_NO_FENCE = "with nothing else, and without a code fence"


def describe_constraints(request: CompletionRequest, by_prompt: frozenset[str]) -> str:
    """The text for the system message that describes what a server does not know."""
    document = _document(request) if describes_document(request, by_prompt) else ""
    if not (describes_tools(request, by_prompt) and callable_tools(request)):
        return f"Reply with {document}" if document else ""
    otherwise = generic.PLAIN
    if request.tool_choice.mode == "named":
        otherwise = f'You must call the tool "{request.tool_choice.name}".'
    elif must_call(request):
        otherwise = "You must call at least one tool."
    elif document:
        otherwise = f"If no tool is needed, reply with {document}"
    if most_calls(request) == 1:
        otherwise = f"Call one tool at most. {otherwise}"
    # All tools, even if one is named, so that a conversation keeps its prefix.
    return generic.instructions([tool_dict(tool) for tool in request.tools], otherwise)


def _document(request: CompletionRequest) -> str:
    if request.output.schema is None:
        return f"one JSON object, {_NO_FENCE}."
    schema = JSON.encode(document_schema(request)).decode()
    return f"JSON that matches the following JSON schema, {_NO_FENCE}:\n{schema}"


def calls_schema(request: CompletionRequest) -> dict[str, object] | None:
    """The schema of an answer in our generic form, for a server that enforces schemas and must make
    a call. None if a schema of the tools has references."""
    calls = []
    for tool in callable_tools(request):
        parameters = tool.parameters or NO_ARGUMENTS
        if b'"$ref"' in JSON.encode(parameters):
            return None
        calls.append(_object({"name": {"const": tool.name}, "arguments": parameters}))
    items = calls[0] if len(calls) == 1 else {"anyOf": calls}
    several = {"type": "array", "items": items, "minItems": 1, "maxItems": most_calls(request)}
    return _object({"tool_calls": several})


def _object(properties: Mapping[str, object]) -> dict[str, object]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def corrected(request: CompletionRequest, answer: str, fault: str) -> CompletionRequest:
    more = (
        Message(role="assistant", content=answer[:QUOTED] or " "),
        Message(
            role="user",
            content=f"That reply is invalid: {fault}. Reply again, in the form that was asked for.",
        ),
    )
    return msgspec.structs.replace(request, messages=(*request.messages, *more))


class CallsStage:
    """Holds the calls of an answer back until its end, and judges their arguments. Text passes,
    unless it begins like a call: one that cannot be read is an error."""

    ended = False

    def __init__(self, judges: Mapping[str, Validator], *, must: bool) -> None:
        self._judges = judges
        self._must = must
        self._calls: list[ToolCallDelta] = []
        self._held: list[TextDelta] | None = []
        self._like_call = False  # the text begins like a call

    def feed(self, batch: Batch) -> Batch:
        out: Batch = []
        for event in batch:
            if isinstance(event, ToolCallDelta):
                self._calls.append(event)
            elif isinstance(event, TextDelta) and self._held is not None:
                self._held.append(event)
                begins = "" if self._like_call else event.text.lstrip()[:1]
                if begins and begins not in "{`":
                    out += self._release()
                elif begins:
                    self._like_call = True
            elif isinstance(event, Finished):
                fault = self._fault(event)
                if fault:
                    return [*out, Failed(InvalidOutput(fault, param="tools"))]
                out += [*self._release(), *self._calls, event]
            else:
                out.append(event)
        return out

    def _release(self) -> Batch:
        text, self._held = joined(self._held or []), None
        return [text] if text.text or text.logprobs else []

    def _fault(self, finished: Finished) -> str:
        """What is wrong with the calls. An answer that a limit cut may end within one."""
        cut = finished.reason == "length"
        calls: list[tuple[str, list[str]]] = []
        for event in self._calls:
            if event.name:
                calls.append((event.name, []))
            calls[-1][1].append(event.arguments)
        for name, parts in calls[:-1] if cut else calls:
            fault = self._judges[name].fault("".join(parts))
            if fault:
                return f"the model's arguments of the tool {name} failed validation: {fault}"
        if cut or calls:
            return ""
        if self._held is not None and _FRAME.match(joined(self._held).text):
            return "the model's call is of no tool of the request, or is not JSON"
        return "the model did not call a tool, as tool_choice requires" if self._must else ""
