"""Splits a model's reasoning from its answer while both stream.

Models write their reasoning first, between tags. An opening tag is recognised only at the beginning
of the reply or directly after a closing tag, so an answer that mentions ``<think>`` stays whole.
White space before an opening tag, one newline after it, one before the closing tag and all newlines
after that belong to the format and are removed, as llama-server does. Only text that may become a
tag is held back.
"""

from __future__ import annotations

from typing import Literal

from .marks import overlap

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
"""Tags of all families; with an empty closing tag the answer follows directly."""

_SPACES = 256
_OPENINGS = tuple(opening for opening, _ in KIN)
_FIRST = frozenset(opening[0] for opening in _OPENINGS)


def opened_by(prompt: str) -> Tags | None:
    """The tags whose opening tag ends the prompt, so that the model continues inside the
    reasoning."""
    end = prompt[-64:].rstrip()
    if not end.endswith(_OPENINGS):
        return None
    return next(tags for tags in KIN if end.endswith(tags[0]))


class ReasoningSplitter:
    """``feed`` and ``close`` return ``(kind, text)`` in order. The text of each kind does not
    depend on how the stream is cut into pieces.

    ``opened`` are the tags that the prompt already opened (see :func:`opened_by`). Once ``passes``
    is set, the rest is text and nothing is held back."""

    __slots__ = ("_close", "_fresh", "_held", "_opened", "_state", "passes")

    def __init__(self, opened: Tags | None = None) -> None:
        self._close = opened[1] if opened else ""
        # A model may repeat the tag that its prompt ended with.
        self._state: Literal["start", "reasoning", "closed"] = "start"
        self._opened = opened is not None
        self._fresh = True
        self._held = ""
        self.passes = False

    @property
    def over(self) -> bool:
        """Whether the reasoning has ended or there is none."""
        return self.passes or self._state == "closed"

    def feed(self, text: str) -> list[tuple[Kind, str]]:
        """The parts of ``text`` and of the text held back that are certain now."""
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
        """The text held back, at the end of the reply."""
        held, self._held = self._held, ""
        if not held or self._state == "closed":
            return []
        inside = self._state == "reasoning" or self._opened
        return [("reasoning" if inside else "text", held)]

    def _step(self, out: list[tuple[Kind, str]]) -> bool:
        """One change of state; False if more text is needed."""
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
            # The newline after the opening tag; a step is only taken when there is text.
            self._fresh = False
            self._held = self._held.removeprefix("\n")
        at = self._held.find(self._close)
        if at >= 0:
            thought, self._held = self._held[:at], self._held[at + len(self._close) :]
            self._emit(out, thought.removesuffix("\n"))
            self._state, self._opened = "closed", False
            return bool(self._held)
        # What may become the closing tag, or the newline before it.
        keep = overlap(self._held, (self._close, "\n" + self._close))
        self._emit(out, self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]
        return False

    @staticmethod
    def _emit(out: list[tuple[Kind, str]], text: str) -> None:
        if text:
            out.append(("reasoning", text))
