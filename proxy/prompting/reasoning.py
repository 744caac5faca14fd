"""A model's thoughts, parted from its answer while both stream.

Models write their thoughts first, between tags. The splitter looks for an opening tag only where
the reply begins (and again right behind a closing tag), so an answer that merely speaks of
``<think>`` stays whole. White space before an opening tag, one newline behind it, one before the
closing tag and all newlines behind that belong to the format and are left out, as llama-server
does. Only what may still become a tag is held back.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["reasoning", "text"]
Tags = tuple[str, str]

HARMONY: Tags = (
    "<|channel|>analysis<|message|>",
    "<|end|><|start|>assistant<|channel|>final<|message|>",
)
KIN: tuple[Tags, ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("◁think▷", "◁/think▷"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    HARMONY,
    ("<|channel|>final<|message|>", ""),
)
"""Tags of the families; an empty closing tag means that the answer begins at once."""

_SPACES = 256
_OPENINGS = tuple(opening for opening, _ in KIN)
_FIRST = frozenset(opening[0] for opening in _OPENINGS)


def opened_by(prompt: str) -> Tags | None:
    """The tags whose opening one ends the prompt: the model goes on inside the thoughts."""
    end = prompt[-64:].rstrip()
    if not end.endswith(_OPENINGS):
        return None
    return next(tags for tags in KIN if end.endswith(tags[0]))


class ReasoningSplitter:
    """``feed`` and ``close`` give ``(kind, text)`` in order; joined by kind they do not depend on
    how the text was cut.

    ``opened`` are the tags that the prompt has opened already (see :func:`opened_by`). ``passes``:
    all that follows is text, and nothing is held back.
    """

    __slots__ = ("_close", "_fresh", "_held", "_opened", "_state", "passes")

    def __init__(self, opened: Tags | None = None) -> None:
        self._close = opened[1] if opened else ""
        # A model may write again the tag that its prompt ended with.
        self._state: Literal["start", "reasoning", "closed"] = "start"
        self._opened = opened is not None
        self._fresh = True
        self._held = ""
        self.passes = False

    @property
    def over(self) -> bool:
        """Whether the thoughts have ended, or it is certain that there are none."""
        return self.passes or self._state == "closed"

    def feed(self, text: str) -> list[tuple[Kind, str]]:
        """What of ``text``, and of what was held back, is certain now."""
        if self.passes:
            return [("text", text)] if text else []
        if (
            self._state == "reasoning"
            and not (self._held or self._fresh)
            and "\n" not in text
            and self._close[0] not in text
        ):
            return [("reasoning", text)] if text else []
        out: list[tuple[Kind, str]] = []
        self._held += text
        while self._held and self._step(out):
            pass
        return out

    def close(self) -> list[tuple[Kind, str]]:
        """What was held back, at the end of the reply."""
        held, self._held = self._held, ""
        if not held or self._state == "closed":
            return []
        inside = self._state == "reasoning" or self._opened
        return [("reasoning" if inside else "text", held)]

    def _step(self, out: list[tuple[Kind, str]]) -> bool:
        """One change of state; False when more text is needed."""
        match self._state:
            case "start":
                return self._start(out)
            case "reasoning":
                return self._reasoning(out)
            case "closed":
                self._held = self._held.lstrip("\n")
                if self._held:
                    self._state = "start"
                return bool(self._held)

    def _text(self, out: list[tuple[Kind, str]]) -> bool:
        self.passes = True
        if self._held:
            out.append(("text", self._held))
            self._held = ""
        return False

    def _start(self, out: list[tuple[Kind, str]]) -> bool:
        rest = self._held.lstrip()
        if not rest or rest[0] in _FIRST:
            for opening, closing in KIN:
                if rest.startswith(opening):
                    self._held = rest[len(opening) :]
                    if not closing:
                        return self._text(out)
                    self._close = closing
                    self._state = "reasoning"
                    self._fresh = True
                    return True
            spaces = len(self._held) - len(rest)
            if spaces <= _SPACES and any(opening.startswith(rest) for opening in _OPENINGS):
                return False
        if self._opened:
            self._state = "reasoning"
            return True
        return self._text(out)

    def _reasoning(self, out: list[tuple[Kind, str]]) -> bool:
        if self._fresh:
            # The newline behind the opening tag; there is text here, or no step would be made.
            self._fresh = False
            self._held = self._held.removeprefix("\n")
        at = self._held.find(self._close)
        if at >= 0:
            thought, self._held = self._held[:at], self._held[at + len(self._close) :]
            self._emit(out, thought.removesuffix("\n"))
            self._state, self._opened = "closed", False
            return bool(self._held)
        keep = self._may_close()
        self._emit(out, self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]
        return False

    def _may_close(self) -> int:
        """Length of the tail that may become the closing tag or the newline before it."""
        for tag in ("\n" + self._close, self._close):
            for length in range(min(len(tag) - 1, len(self._held)), 0, -1):
                if self._held.endswith(tag[:length]):
                    return length
        return 0

    @staticmethod
    def _emit(out: list[tuple[Kind, str]], text: str) -> None:
        if text:
            out.append(("reasoning", text))
