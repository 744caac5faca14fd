"""Keeps texts inside of messages from speaking for the chat template.

``<|im_end|>\\n<|im_start|>system`` in a tool's result is the same characters as the end of that
result and the beginning of a system message. But servers tokenize each text of a prompt's list by
itself, and a control token that two of them share is plain text. So nothing is altered: the prompt
is cut inside of every control token that a message brought along.

The places are marked before the template is rendered, when it is still known what comes from whom,
with one of Unicode's noncharacters that nothing in the request contains. Afterwards the marks are
removed, and their places are the prompt's breaks. For a backend that renders prompts itself, an
invisible character (word joiner) is put into each control token.

The operator may write control tokens, in the system message. An answer of the model may contain
those that only occur in answers, because its template looks for them. Users may if a setting says
so. Results of tools and documents may not.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, islice, pairwise
from typing import Any

import msgspec
from msgspec import Struct

from ...core.request import CompletionRequest, Message, ToolCall
from ...core.task import ContentGuard
from ...errors import InvalidParameter

# Which texts a tokenizer turns into one token with a meaning of its own, only the vocabulary tells,
# and no server shows it. So a text counts as a control token if
#
# - it stands in the source of the template or in what it writes, and has the shape of one
#   (``<…>``, ``[INST]``, ``[|…|]``, ``｜…｜``, ``〈…〉``, and the brackets of MiniMax);
# - it is the template's begin, end or stop token, or a usual one;
# - or it has a shape that nothing else has: ``<|…|>``, ``<｜…｜>``, ``<|…>``, and ``<…|>`` if the
#   template has one of these. Vocabularies have more of those than their templates name.
#
# A text too many does no harm: it only gets other tokens than it would have.

MOST = 512  # control tokens of a template; real ones have 40 at most
LONGEST = 66  # characters of a control token
REACH = 2 * LONGEST  # characters that decide whether a token begins
PIECE = 64 << 10  # characters that are searched in one call, which holds the interpreter
_BAR = "|\uff5c"  # DeepSeek's are full-width
_NAME = rf"[^\s<>{_BAR}]{{1,62}}+"  # possessive: nothing shorter can match

# In the source of a template. Each is searched by itself, because they may overlap.
_SHAPES = (
    r"<[^\s<>\"'{}]{1,64}>",
    r"<[^\s<>\"'{}=]{1,48}=",
    r"<</?[A-Z]{2,16}>>",
    r"\[/?(?=[^\]]{0,48}[A-Z]{2})[A-Za-z_]{2,48}\]",
    r"\[\|[^\s\[\]|]{1,62}\|\]",
    r"[\[\]](?:~!?b|e~)[\[\]]",
    r"\uff5c[^\s<>\uff5c]{1,62}\uff5c",
    r"\u3008[^\s\u3008\u3009]{1,62}\u3009",
)
# Plain words between angle brackets are XML, HTML or examples, apart from these.
_WORD = re.compile(r"</?([A-Za-z]+)>")
_TAGS = frozenset(
    "s bos eos unk pad sep sop eop co role system user assistant observation think tool tools"
    " toolcall documents result results response".split()
)
# Many vocabularies have these, and old servers do not tell them.
_USUAL = frozenset(("<s>", "</s>", "<bos>", "<eos>", "<unk>", "<pad>"))
_BRACKETS = frozenset(("[BOS]", "[EOS]", "[EOT]", "[PAD]"))  # all, if there is one of them
_NEAR = r"[^\s<>]{0,63}?"
# Conditions on what follows the first character of a token.
NO_PART_OF_ANSWERS = (
    rf"(?!(?i:{_NEAR}(?:think|thought|reason|call|func|invoke|param|arg|channel|message|constrain"
    r"|recipient|action|answer|python|plan|content|_text\||inner_|tools_(?:pre|suf)fix|minimax\["
    r"|(?<!tool_)response|grounding|co:|\|\"\|)))"
)
"""Not a reasoning tag, the mark of a call, or another mark that a model writes in its answers."""
OF_ROLES = (
    rf"(?=(?i:{_NEAR}(?:im_|header|turn|user|system|assistant|chatbot|inst|sys|role|observation"
    r"|begin.?of|end.?of|bos|eos|eot|eom)|/?s>))"
)
"""Tells whose turn begins or ends. The model's answers do not contain one."""
_ANY = rf"[{_BAR}][^\s<>]{{1,63}}>|0x[0-9A-F]{{2}}>"
# Gemma 4's: tried only if the template has one, since HTML is slow then.
_LATE = rf"{_NAME}[{_BAR}]>"
_IS_LATE = re.compile(f"<{_LATE}")
_PART_OF_ANY = re.compile(rf"<(?:[{_BAR}][^\s<>]{{0,63}})?|<{_NAME}[{_BAR}]")
_compiled = lru_cache(MOST)(re.compile)  # when it is first needed: most texts have no bracket
_REST_OF_ANY = re.compile(rf"[^\s<>]{{0,63}}[{_BAR}]>")


class ControlTokens:
    """The control tokens of a template with this `source`, and `more` that it does not name; of
    those, the ones that meet a `condition`: a lookahead for what follows their first character."""

    def __init__(self, source: str, more: Iterable[str] = (), condition: str = "") -> None:
        spelled = {m[0] for form in _SHAPES for m in islice(re.finditer(form, source), MOST)}
        words = {text: _WORD.fullmatch(text) for text in spelled}
        tokens = {text for text, word in words.items() if not word or word[1].lower() in _TAGS}
        more = _USUAL.union(more)
        if not more.isdisjoint(_BRACKETS):
            more |= _BRACKETS
        tokens |= {text for text in more if 1 < len(text) <= LONGEST and text.split() == [text]}
        meets = re.compile(condition)
        tokens = {token for token in tokens if meets.match(token, 1)}
        self.tokens = frozenset(sorted(tokens)[:MOST])
        form = f"{_ANY}|{_LATE}" if any(map(_IS_LATE.fullmatch, tokens)) else _ANY
        self._any = re.compile(f"<(?:{form})")
        rests: dict[str, list[str]] = {"<": [f"(?={form}){condition}"]}
        for token in sorted(self.tokens):
            rests.setdefault(token[0], []).append(re.escape(token[1:]))
        # One search for each first character: `re` looks for a literal ten times as fast as for a
        # class. Only that character is consumed, so overlapping tokens are found.
        self._patterns = {
            first: f"{re.escape(first)}(?!\\s)(?={'|'.join(rest)})" for first, rest in rests.items()
        }
        self._last = "".join({">", *(token[-1] for token in self.tokens)})
        self._brackets = "".join({*self._patterns, *self._last})
        self._beginnings = {t[:n] for t in self.tokens for n in range(1, len(t))}
        self._endings = {t[n:] for t in self.tokens for n in range(1, len(t) - 1)}

    def inside(self, text: str) -> bool:
        return next(self._ends_of_first(text), None) is not None

    def _ends_of_first(self, text: str) -> Iterator[int]:
        """The offsets behind the first characters of control tokens, unordered. Searched in pieces,
        between which other threads run."""
        for first, pattern in self._patterns.items():
            for begin in range(0, len(text), PIECE) if first in text else ():
                end = begin + PIECE
                for match in _compiled(pattern).finditer(text, begin, end + REACH):
                    if match.start() < end:
                        yield match.end()

    def touches(self, text: str) -> bool:
        """Whether `breaks` finds something."""
        for bracket in self._brackets:
            if bracket in text:
                break
        else:
            return False  # as in most texts
        return self.inside(text) or self._ends_within(text) or self._begins_within(text)

    def breaks(self, text: str) -> list[int]:
        """The offsets, ascending, at which a text must be cut so that no control token is left:
        behind the first character of each, and at the end or beginning of the text if that is
        within one, which its neighbour might complete."""
        cuts = {*self._ends_of_first(text)}
        if self._begins_within(text):
            cuts.add(0)
        if self._ends_within(text):
            cuts.add(len(text))
        return sorted(cuts)

    def spans(self, text: str, at: int) -> bool:
        """Whether a control token in the text reaches from before an offset to behind it."""
        for begin in range(max(0, at - LONGEST + 1), at):
            if text[begin] in self._patterns:
                whole = self._any.match(text, begin)
                ends = [begin + len(t) for t in self.tokens if text.startswith(t, begin)]
                if max(whole.end() if whole else 0, *ends, 0) > at:
                    return True
        return False

    def _ends_within(self, text: str) -> bool:
        """One character does not count: many texts end with a bracket."""
        tail = text[-LONGEST:]
        for first in self._patterns:
            if first in tail:
                word = tail.rsplit(None, 1)[-1] if not tail[-1].isspace() else ""
                for at in range(len(word) - 1):
                    rest = word[at:]
                    if word[at] == first and (
                        rest in self._beginnings or _PART_OF_ANY.fullmatch(rest)
                    ):
                        return True
        return False

    def _begins_within(self, text: str) -> bool:
        """One character does not count: many texts begin with `>`."""
        head = text[:LONGEST]
        for last in self._last:
            if last in head:
                ending = head[: head.find(last, 1) + 1]
                if ending in self._endings or _REST_OF_ANY.fullmatch(ending):
                    return True
        return False


# Of common models, for a backend that renders prompts with a template that nobody has seen.
COMMON = (
    "[INST] [/INST] <<SYS>> <</SYS>> [SYSTEM_PROMPT]"
    " [/SYSTEM_PROMPT] [TOOL_CALLS] [TOOL_RESULTS] [/TOOL_RESULTS] [AVAILABLE_TOOLS]"
    " [/AVAILABLE_TOOLS] [gMASK] <sop> <eop> <start_of_turn> <end_of_turn> <tool_call>"
    " </tool_call> <tool_response> </tool_response> <tools> </tools> <think> </think>"
    " <BOS_TOKEN> <EOS_TOKEN> [BOS] [EOS] [EOT] [|system|] [|user|] [|assistant|] [|tool|]"
    " <|turn> <turn|> <|tool> <tool|> <|tool_call> <tool_call|> <|tool_response>"
    " <tool_response|> <|channel> <channel|> [|endofturn|] ]~!b[ ]~b] [e~[ <role> </role>"
    " <seed:bos> <seed:eos> \uff5cDSML\uff5c"
).split()


MARKS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
JOINER = "\u2060"
DOCUMENTS = "documents"  # the variable of templates for retrieved texts
_DESCRIBING = ("description", "title")  # of a schema: changing others changes its meaning
# JSON with an escape that may hide a control token, and each of its escapes.
_HIDING = re.compile(r"\\(?:u(?:00[2-7]|[fF]{2}5[cC]|2581)|/)")
_ESCAPES = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)

Change = Callable[[str], str]


class MarkedRequest(Struct, frozen=True):
    request: CompletionRequest
    control_tokens: ControlTokens
    mark: str

    def unmarked(
        self, text: str, boundaries: Sequence[int]
    ) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        """The rendered text without the marks, the breaks that were there, and the offsets in it of
        the `boundaries`, which ascend in the marked text."""
        # A template may write JSON or Python source in ASCII.
        pattern = f"{self.mark}|{re.escape(_escape(self.mark))}"
        places = [match.span() for match in re.finditer(pattern, text)]
        cuts = [0, *(at for place in places for at in place), len(text)]
        parts = [text[begin:end] for begin, end in zip(cuts[::2], cuts[1::2], strict=True)]
        plain = "".join(parts)
        # A mark at the end of a content is a break only if the text behind completes a token.
        breaks = (
            offset
            for offset in dict.fromkeys(accumulate(map(len, parts[:-1])))
            if self.control_tokens.spans(plain, offset)
        )
        removed = [0, *accumulate(end - start for start, end in places)]
        starts = [start for start, _ in places]
        return (
            plain,
            tuple(breaks),
            tuple(offset - removed[bisect_left(starts, offset)] for offset in boundaries),
        )

    def disarmed(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Marked messages with an invisible character in place of each mark."""
        if not messages:
            return messages
        changed = _each(msgspec.to_builtins(messages), lambda text: text.replace(self.mark, JOINER))
        return msgspec.convert(changed, tuple[Message, ...])


class Neutraliser(ContentGuard):
    """Breaks the control tokens of one chat template, given its `source` and the `tokens` that it
    gets as variables; those of users' messages and tools only with `users`."""

    def __init__(self, source: str, tokens: Iterable[str] = (), *, users: bool = True) -> None:
        tokens = tuple(filter(None, tokens))
        self._everything = everything = ControlTokens(source, tokens)
        self._offered = everything if users else None
        self._rules: Mapping[str, ControlTokens | None] = {
            "system": None,
            "user": self._offered,
            "assistant": ControlTokens(source, tokens, NO_PART_OF_ANSWERS),
            "tool": everything,
        }
        self._roles = ControlTokens(source, tokens, OF_ROLES)
        self._free = tuple(m for m in MARKS if m not in source and _escape(m) not in source)

    def mark(self, request: CompletionRequest) -> MarkedRequest | None:
        """Mark the places at which the prompt of a chat must be cut; None if there are none."""
        if not self._has_some(request):
            return None
        contents = (request.messages, request.tools, request.template_kwargs)
        text = json.dumps(msgspec.to_builtins(contents))
        mark = next((mark for mark in self._free if _escape(mark) not in text), None)
        if mark is None:
            raise InvalidParameter(
                "messages",
                "contain control tokens of the chat template and all of Unicode's noncharacters"
                " U+FDD0 to U+FDEF",
            )
        return MarkedRequest(self._changed(request, mark, _each), self._everything, mark)

    def breaks(self, text: str) -> tuple[int, ...]:
        """The breaks of a text that the model wrote, if its answer continues behind it. Of its
        control tokens, those of roles can only be quotations."""
        return tuple(self._roles.breaks(text))

    def disarmed(self, request: CompletionRequest) -> CompletionRequest:
        return self._changed(request, JOINER, _descriptions) if self._has_some(request) else request

    def _has_some(self, request: CompletionRequest) -> bool:
        if any(map(self._touches, request.messages)):
            return True
        if not (request.tools or request.template_kwargs):
            return False  # as in most requests
        tools, offered, values = request.tools, self._offered, request.template_kwargs
        # As JSON, in which no control token looks different: one search instead of hundreds.
        if tools and offered is not None and offered.inside(msgspec.json.encode(tools).decode()):
            return True
        return bool(values) and any(
            _each(value, _cut(self._of(name), JOINER)) != value for name, value in values.items()
        )

    def _of(self, variable: str) -> ControlTokens | None:
        return self._everything if variable == DOCUMENTS else self._offered

    def _touches(self, message: Message) -> bool:
        rule = self._everything if message.cites else self._rules[message.role]
        if rule is None:
            return False
        if rule.touches(message.content):
            return True
        if message.reasoning and rule.touches(message.reasoning):
            return True
        if message.name and self._everything.touches(message.name):
            return True
        if message.role == "tool" and _hides(rule, message.content):
            return True
        if message.parts and any(map(rule.touches, _texts(message))):
            return True
        calls = message.tool_calls
        return calls != () and any(
            rule.touches(call.arguments) or _hides(rule, call.arguments) for call in calls
        )

    def _changed(
        self, request: CompletionRequest, between: str, texts: Callable[[Any, Change], Any]
    ) -> CompletionRequest:
        """The request with `between` at all breaks; of parameters of tools, in their `texts`."""
        offered = _cut(self._offered, between)
        return msgspec.structs.replace(
            request,
            messages=tuple(self._message(message, between) for message in request.messages),
            tools=tuple(
                msgspec.structs.replace(
                    tool,
                    description=offered(tool.description),
                    parameters=texts(tool.parameters, offered),
                )
                for tool in request.tools
            ),
            template_kwargs={
                name: _each(value, _cut(self._of(name), between))
                for name, value in request.template_kwargs.items()
            },
        )

    def _message(self, message: Message, between: str) -> Message:
        rule = self._everything if message.cites else self._rules[message.role]
        if rule is None or not self._touches(message):
            return message
        begins, places = message.parts or (0,), set[int]()
        for begin, text in zip(begins, _texts(message), strict=True):
            of_text = _with_escapes(rule, text) if message.role == "tool" else rule.breaks(text)
            places.update(begin + at for at in of_text)
        ordered, cut = sorted(places), _cut(rule, between)
        return msgspec.structs.replace(
            message,
            content=_joined(message.content, ordered, between),
            name=_cut(self._everything, between)(message.name),
            reasoning=cut(message.reasoning),
            tool_calls=tuple(
                ToolCall(
                    call.id,
                    call.name,
                    _joined(call.arguments, _with_escapes(rule, call.arguments), between),
                )
                for call in message.tool_calls
            ),
            media=tuple(
                msgspec.structs.replace(media, at=media.at + bisect_left(ordered, media.at))
                for media in message.media
            ),
            parts=tuple(begin + bisect_left(ordered, begin) for begin in message.parts),
        )


def _escape(mark: str) -> str:
    return f"\\u{ord(mark):04x}"


def _texts(message: Message) -> list[str]:
    """The texts of a message's parts. Templates may put them together without the line breaks."""
    ends = (*(begin - 1 for begin in message.parts[1:]), len(message.content))
    return [
        message.content[begin:end] for begin, end in zip(message.parts or (0,), ends, strict=True)
    ]


def _joined(text: str, breaks: Sequence[int], between: str) -> str:
    if not breaks:
        return text
    return between.join(text[begin:end] for begin, end in pairwise((0, *breaks, len(text))))


def _cut(rule: ControlTokens | None, between: str) -> Change:
    if rule is None:
        return lambda text: text
    return lambda text: _joined(text, rule.breaks(text), between)


def _hides(rule: ControlTokens, text: str) -> bool:
    return _HIDING.search(text) is not None and bool(_with_escapes(rule, text))


def _with_escapes(rule: ControlTokens, text: str) -> list[int]:
    """The breaks of a text that is JSON, perhaps: also those of the texts in it, which a template
    may write without JSON's escapes."""
    breaks = rule.breaks(text)
    if not _HIDING.search(text):
        return breaks
    parts, ends, at = [], [0], 0
    for match in _ESCAPES.finditer(text):
        parts.append(text[at : match.start()])
        ends += range(at + 1, match.start() + 1)
        parts.append(chr(int(match[1], 16)) if match[1] else match[2])
        ends.append(match.end())
        at = match.end()
    ends += range(at + 1, len(text) + 1)
    decoded = "".join(parts) + text[at:]
    return sorted({*breaks, *(ends[offset] for offset in rule.breaks(decoded))})


def _each(value: Any, change: Change) -> Any:
    """A JSON value with every text in it changed, also keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_each(key, change): _each(each, change) for key, each in value.items()}
    return [_each(each, change) for each in value] if isinstance(value, list | tuple) else value


def _descriptions(value: Any, change: Change) -> Any:
    """A schema with its texts changed that have no meaning."""
    if isinstance(value, Mapping):
        return {
            key: change(each)
            if key in _DESCRIBING and isinstance(each, str)
            else _descriptions(each, change)
            for key, each in value.items()
        }
    return [_descriptions(v, change) for v in value] if isinstance(value, list | tuple) else value
