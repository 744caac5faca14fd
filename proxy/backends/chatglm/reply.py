"""Turns the model's text into events: drops a leading blank line, separates calls from text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...core.events import Event, TextDelta, ToolCallDelta
from ...core.request import Tool
from ...prompting.formats import CHATGLM3, GLM4, CallArguments, CallStart, Parser, Piece, TextPiece
from .protocol import Family

FORM = {"chatglm3": CHATGLM3, "glm-4": GLM4}


class ReplyText:
    """feed(text) -> events. `called` is the number of calls so far. `new_id` creates the id of a
    call; `opening` and `begun` are the beginning of the answer that the prompt contains."""

    def __init__(
        self,
        family: Family,
        tools: Sequence[Tool],
        opening: Sequence[str],
        new_id: Callable[[], str],
        begun: str = "",
    ) -> None:
        self._new_id = new_id
        self._begun = bool(begun)  # whether text has come
        self.called = 0
        self._parser: Parser | None = None
        self._must = tools[0].name if opening else ""
        if tools and family in FORM:
            known = {tool.name: tool.parameters for tool in tools}
            self._parser = FORM[family].parser(known)
            self._parser.feed("".join(opening) + begun)

    def feed(self, text: str) -> list[Event]:
        if self._parser is None:
            return self._text(text)
        return self._events(self._parser.feed(text))

    def close(self, cut: bool = False) -> list[Event]:
        """The text held back. For a required call that was `cut` by the token limit, its name."""
        if self._parser is None:
            return []
        pieces = self._parser.close()
        if not (cut and self._must):
            return self._events(pieces)
        out = self._events([p for p in pieces if not isinstance(p, TextPiece)])
        if not self.called:
            self.called += 1
            out.append(ToolCallDelta(0, self._new_id(), self._must))
        return out

    def _events(self, pieces: Sequence[Piece]) -> list[Event]:
        out: list[Event] = []
        for piece in pieces:
            if isinstance(piece, TextPiece):
                out += self._text(piece.text)
            elif isinstance(piece, CallStart):
                self.called += 1
                out.append(ToolCallDelta(piece.index, self._new_id(), piece.name))
            elif isinstance(piece, CallArguments):
                out.append(ToolCallDelta(piece.index, arguments=piece.text))
        return out

    def _text(self, text: str) -> list[Event]:
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        return [TextDelta(text)] if text else []
