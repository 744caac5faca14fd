"""Learns what a template accepts in its messages, by rendering conversations whose texts are known.

If a prompt lacks one of its texts, or the template refuses it, the template needs its messages in
another way. What cannot be learned keeps the default of `MessageRules`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product
from typing import Any

from msgspec.structs import replace

from ...core.request import Message, Role, ToolCall
from ..template import TemplateError
from .adapt import MessageRules, as_dicts

Render = Callable[..., str]

LONGEST = 100_000  # characters of a probe's prompt; real ones have 10 000 at most
EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")
EFFORT_VARIABLES = ("reasoning_effort", "reasoning_strength", "thinking_effort")

KEEPING: Mapping[str, bool] = {
    "preserve_reasoning": True,
    "preserve_thinking": True,
    "clear_thinking": False,
    "truncate_history_thinking": False,
    "drop_thinking": False,
}
"""The variables by which templates keep the reasoning of earlier turns."""
OFF: Mapping[str, Any] = {"enable_thinking": False}

SYSTEM = Message(role="system", content="Wsystem")
USER = Message(role="user", content="Wuser")
ANSWER = Message(role="assistant", content="Wanswer")
MORE = Message(role="user", content="Wmore")
PARTS = Message(role="user", content="Wfirst\nWsecond", parts=(0, 7))
NINE = ("call00001", "call00002")
LONG = ("call_Wa0123456789", "call_Wb0123456789")


def probe_tool(name: str, about: str, *keys: str, about_keys: str) -> Mapping[str, Any]:
    argument = {"type": "string", "description": about_keys}
    properties = dict.fromkeys(keys, argument)
    parameters = {"type": "object", "properties": properties, "required": [keys[0]]}
    function = {"name": name, "description": about, "parameters": parameters}
    return {"type": "function", "function": function}


TOOL = probe_tool("Wtool", "Wdescription", "Wkey", about_keys="Wkeys")
CALL = Message(role="assistant", tool_calls=(ToolCall(NINE[0], "Wtool", "{}"),))
CONVERSATION = (
    SYSTEM,
    USER,
    CALL,
    Message(role="tool", content="Wresult", tool_call_id=NINE[0]),
    ANSWER,
    MORE,
)
_WORDS = re.compile(r"W[a-z]+\d?")
_QUOTED = re.compile(r"""["'](?:text|thinking)["']\s*:\s*["']W""")  # a part as an object's text
# As a special token is written: <|end|>, </s>, [/INST], <｜end▁of▁sentence｜>.
_TOKEN = re.compile(r"\s*(<[^<>\s]+>|\[[^\[\]\s]+\])")


def message_rules(render: Render, reads: Collection[str]) -> MessageRules:
    probes = _Probes(render, "enable_thinking" in reads)
    rules = probes.contents(MessageRules())
    rules = probes.systems(rules)
    rules = probes.turns(rules)
    rules = probes.tools(rules)
    rules = probes.reasoning(rules)
    if not set(EFFORT_VARIABLES).isdisjoint(reads):
        rules = replace(rules, efforts=probes.efforts(rules))
    return probes.answers(rules)


class _Probes:
    def __init__(self, render: Render, has_switch: bool) -> None:
        self._render = render
        self._has_switch = has_switch

    def _text(
        self,
        rules: MessageRules,
        *messages: Message,
        tools: bool = False,
        variables: Mapping[str, Any] = {},
        opens: bool = True,
    ) -> str | None:
        """The prompt, None if the template refuses. It `opens` the model's turn at the end."""
        try:
            text = self._render(
                as_dicts(messages, rules),
                [TOOL] if tools else None,
                variables={**KEEPING, "enable_thinking": True, **variables},
                add_generation_prompt=opens,
            )
        except TemplateError:
            return None
        return text if len(text) <= LONGEST else None

    def _shows(self, rules: MessageRules, *messages: Message, tools: bool = False) -> bool:
        """Whether the prompt has all texts of the messages, and no parts as objects."""
        text = self._text(rules, *messages, tools=tools) or ""
        return _texts(messages) <= set(_WORDS.findall(text)) and not _QUOTED.search(text)

    def contents(self, rules: MessageRules) -> MessageRules:
        listed = replace(rules, content="parts")
        if not self._shows(listed, replace(PARTS, role="user")):
            return rules
        if self._shows(rules, USER):
            # Templates that look for text in the parts may fail if there is none.
            if self._text(listed, Message(role="user")) is None:
                return rules
            listed = replace(rules, content="both")
        others: Mapping[Role, Sequence[Message]] = {
            "system": (replace(PARTS, role="system"), USER),
            "assistant": (USER, replace(PARTS, role="assistant"), MORE),
            "tool": (USER, CALL, replace(PARTS, role="tool", tool_call_id=NINE[0])),
        }
        texts = (role for role, turns in others.items() if not self._shows(listed, *turns))
        return replace(listed, text_roles=tuple(texts))

    def systems(self, rules: MessageRules) -> MessageRules:
        if not self._shows(rules, SYSTEM, USER):
            return replace(rules, system="none")
        late = replace(SYSTEM, content="Wlate")
        places = ((SYSTEM, late, USER), (SYSTEM, USER, ANSWER, late, MORE), (USER, late))
        anywhere = all(self._shows(rules, *turns) for turns in places)
        return rules if anywhere else replace(rules, system="first")

    def turns(self, rules: MessageRules) -> MessageRules:
        free = self._shows(rules, USER, MORE) and self._shows(rules, ANSWER, MORE)
        return rules if free else replace(rules, alternates=True)

    def tools(self, rules: MessageRules) -> MessageRules:
        head = (USER,) if rules.system == "none" else (SYSTEM, USER)
        described = self._text(rules, *head, tools=True) or ""
        rules = replace(rules, tools="Wtool" in described)
        for ids, arguments in product((LONG, NINE), ("object", "text")):
            call_ids = "any" if ids is LONG else "nine"
            tried = replace(rules, calls=True, arguments=arguments, call_ids=call_ids)
            text = self._text(tried, USER, *_round(ids[:1]), tools=True)
            if text is not None and _shows_call(text, described):
                return self._rounds(tried, ids)
        return rules

    def _rounds(self, rules: MessageRules, ids: Sequence[str]) -> MessageRules:
        answered = replace(rules, results="responses")
        if self._shows(answered, USER, *_round(ids), tools=True) and self._is_any_role(rules):
            return answered
        if not self._shows(rules, USER, *_round(ids), tools=True):
            rules = replace(rules, calls_per_turn="one")
        call, result = _round(ids[:1])
        both = (replace(call, content="Wsaid"), result)
        return replace(
            rules,
            text_with_calls=self._shows(rules, USER, *both, tools=True),
            user_after_result=self._shows(rules, USER, call, result, MORE, tools=True),
        )

    def _is_any_role(self, rules: MessageRules) -> bool:
        """Whether a result is written as a message of any other role would be."""
        messages = as_dicts((USER, *_round(NINE[:1])), rules)
        messages.append({**messages.pop(), "role": "Wrole"})
        try:
            other = self._render(messages, [TOOL], variables={**KEEPING, **OFF})
        except TemplateError:
            return False
        text = self._text(rules, USER, *_round(NINE[:1]), tools=True, variables=OFF)
        return text == other.replace("Wrole", "tool")

    def reasoning(self, rules: MessageRules) -> MessageRules:
        """Where reasoning is read, in an answer or beside calls, and whether it can be switched."""
        call, *result = _round(NINE[:1])
        call = replace(call, reasoning="Wthought")
        for field in ("reasoning_content", "thinking", "parts"):
            tried = replace(rules, reasoning=field)
            shows, thought = self._thought(tried)
            if field == "parts" and not (thought and thought[0]):
                continue  # a template that writes any part
            if shows or (rules.calls and self._shows(tried, USER, call, *result, tools=True)):
                rules = replace(tried, thought=thought)
                both = replace(call, content="Wsaid")
                if rules.calls and self._text(rules, USER, both, *result, tools=True) is None:
                    rules = replace(rules, text_with_thought_calls=False)
                return replace(rules, thinks=self._has_switch)
        if self._has_switch:
            on = self._text(rules, USER) or ""
            off = self._text(rules, USER, variables=OFF) or ""
            rules = replace(rules, thinks=on.rpartition("Wuser")[2] != off.rpartition("Wuser")[2])
        return rules

    def _thought(self, rules: MessageRules) -> tuple[bool, tuple[str, str] | None]:
        """Whether the last answer has its reasoning, and what is before and after that."""
        text = self._text(rules, USER, replace(ANSWER, reasoning="Wthought"), opens=False) or ""
        before, thought, rest = text.partition("Wthought")
        between, answer, _ = rest.rpartition("Wanswer")
        if not (thought and answer) or _QUOTED.search(text):
            return False, None
        question = self._text(rules, USER) or ""
        return True, (before[len(question) :], between) if before.startswith(question) else None

    def efforts(self, rules: MessageRules) -> tuple[str, ...]:
        return tuple(
            word
            for word in EFFORTS
            if self._text(rules, USER, variables=dict.fromkeys(EFFORT_VARIABLES, word)) is not None
        )

    def answers(self, rules: MessageRules) -> MessageRules:
        question = self._text(rules, USER) or ""
        ended = self._text(rules, USER, opens=False) or ""
        answered = self._text(rules, USER, ANSWER, opens=False) or ""
        before, answer, _ = answered.partition("Wanswer")
        followed = self._text(rules, USER, ANSWER, MORE, opens=False) or ""
        between = followed.rpartition("Wmore")[0].rpartition("Wanswer")[2]
        token = _TOKEN.match(between)
        return replace(
            rules,
            opening=question[len(ended) :] if question.startswith(ended) else "",
            lead=before[len(question) :] if answer and before.startswith(question) else None,
            end=token[1] if token else between.rstrip(),
            end_is_token=token is not None,
        )


def _round(ids: Sequence[str]) -> tuple[Message, ...]:
    calls = tuple(ToolCall(id, "Wtool", f'{{"Wkey": "Wvalue{i}"}}') for i, id in enumerate(ids))
    results = (
        Message(role="tool", content=f"Wresult{i}", tool_call_id=id) for i, id in enumerate(ids)
    )
    return Message(role="assistant", tool_calls=calls), *results


def _texts(messages: Sequence[Message]) -> set[str]:
    texts = "\n".join(
        " ".join((m.content, m.reasoning, *(call.arguments for call in m.tool_calls)))
        for m in messages
    )
    return set(_WORDS.findall(texts))


def _shows_call(text: str, described: str) -> bool:
    """Whether a prompt has a call with its arguments and its result, and the arguments neither as
    Python's text of an object nor as a text within a text."""
    written = text.count("Wtool") > described.count("Wtool") and "Wresult0" in text
    if not (written and "Wkey" in text and "Wvalue0" in text):
        return False
    return "'Wkey': 'Wvalue0'" not in text and '\\"Wvalue0\\"' not in text
