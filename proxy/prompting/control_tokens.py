"""Finds the control tokens of a chat template in texts.

A control token is a text that the tokenizer turns into one token with a meaning of its own, like
``<|im_start|>``. Which texts these are, only the vocabulary tells, and no server shows it. So a
text counts as a control token if

- it stands in the source of the template and has the shape of one (``<…>``, ``[INST]``, ``[|…|]``,
  ``｜…｜``, ``〈…〉``, and the brackets of MiniMax), or in what it writes, since some templates put
  their tokens together;
- it is the template's begin, end or stop token, or a usual one;
- or it has a shape that nothing else has: ``<|…|>``, ``<｜…｜>``, ``<|…>``, and ``<…|>`` if the
  template has one of these. Vocabularies have more of those than their templates name.

A text too many does no harm: it only gets other tokens than it would have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice

MOST = 512  # control tokens of a template; real ones have 40 at most
LONGEST = 66  # characters of a control token
_BAR = "|\uff5c"  # DeepSeek's are full-width
_NAME = rf"[^\s<>{_BAR}]{{1,62}}+"  # possessive: nothing shorter can match

# The shapes of control tokens in the source of a template. Each is searched by itself, because they
# may overlap.
_SHAPES = tuple(
    map(
        re.compile,
        (
            r"<[^\s<>\"'{}]{1,64}>",
            r"<[^\s<>\"'{}=]{1,48}=",
            r"<</?[A-Z]{2,16}>>",
            r"\[/?(?=[^\]]{0,48}[A-Z]{2})[A-Za-z_]{2,48}\]",
            r"\[\|[^\s\[\]|]{1,62}\|\]",
            r"[\[\]](?:~!?b|e~)[\[\]]",
            r"\uff5c[^\s<>\uff5c]{1,62}\uff5c",
            r"\u3008[^\s\u3008\u3009]{1,62}\u3009",
        ),
    )
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
_LATE = (
    rf"{_NAME}[{_BAR}]>"  # Gemma 4's: tried only if the template has one, since HTML is slow then
)
_IS_LATE = re.compile(f"<{_LATE}")
_PART_OF_ANY = re.compile(rf"<(?:[{_BAR}][^\s<>]{{0,63}})?|<{_NAME}[{_BAR}]")
_REST_OF_ANY = re.compile(rf"[^\s<>]{{0,63}}[{_BAR}]>")


class ControlTokens:
    """The control tokens of a template with this `source`, and `more` that it does not name; of
    those, the ones that meet a `condition`: a lookahead for what follows their first character."""

    def __init__(self, source: str, more: Iterable[str] = (), condition: str = "") -> None:
        found = {match[0] for shape in _SHAPES for match in islice(shape.finditer(source), MOST)}
        tokens = {text for text in found if _is_token(text)}
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
        # class. Only that character is consumed, so overlapping tokens are found. Code is full of
        # single ones, before a space.
        self._patterns = {
            first: re.compile(f"{re.escape(first)}(?!\\s)(?={'|'.join(rest)})")
            for first, rest in rests.items()
        }
        self._last = "".join({">", *(token[-1] for token in self.tokens)})
        self._brackets = "".join({*self._patterns, *self._last})
        self._beginnings = {t[:n] for t in self.tokens for n in range(1, len(t))}
        self._endings = {t[n:] for t in self.tokens for n in range(1, len(t) - 1)}

    def inside(self, text: str) -> bool:
        """Whether a text contains a control token."""
        for first, pattern in self._patterns.items():
            if first in text and pattern.search(text):
                return True
        return False

    def touches(self, text: str) -> bool:
        """Whether `breaks` finds something."""
        for bracket in self._brackets:
            if bracket in text:
                break
        else:
            return False  # as in most texts
        return self.inside(text) or self._ends_within(text) or self._begins_within(text)

    def breaks(self, text: str) -> list[int]:
        """The offsets, ascending, at which a text must be cut so that no control token is left.

        Each token is cut behind its first character. The text is also cut at its end if it ends
        within a token, and at its beginning if it begins within one: its neighbour might complete
        it."""
        found = {match.end() for p in self._patterns.values() for match in p.finditer(text)}
        if self._begins_within(text):
            found.add(0)
        if self._ends_within(text):
            found.add(len(text))
        return sorted(found)

    def spans(self, text: str, at: int) -> bool:
        """Whether a control token in the text reaches from before an offset to behind it."""
        for begin in range(at - 1, max(-1, at - LONGEST), -1):
            if text[begin] not in self._patterns:
                continue
            head = text[begin:at]
            if self._is_part(head):
                whole = self._any.match(text, begin)
                if (whole is not None and whole.end() > at) or any(
                    text.startswith(token, begin) and len(token) > len(head)
                    for token in self.tokens
                ):
                    return True
        return False

    def _ends_within(self, text: str) -> bool:
        """One character does not count: many texts end with a bracket."""
        tail = text[-LONGEST:]
        for first in self._patterns:
            if first in tail:
                word = tail.rsplit(None, 1)[-1] if not tail[-1].isspace() else ""
                for at in range(len(word) - 1):
                    if word[at] == first and self._is_part(word[at:]):
                        return True
        return False

    def _begins_within(self, text: str) -> bool:
        """One character does not count: many texts begin with `>`."""
        head = text[:LONGEST]
        for last in self._last:
            if last in head:
                some = head[: head.find(last, 1) + 1]
                if some in self._endings or _REST_OF_ANY.fullmatch(some):
                    return True
        return False

    def _is_part(self, text: str) -> bool:
        return text in self._beginnings or _PART_OF_ANY.fullmatch(text) is not None


def _is_token(text: str) -> bool:
    word = _WORD.fullmatch(text)
    return word is None or word[1].lower() in _TAGS


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
