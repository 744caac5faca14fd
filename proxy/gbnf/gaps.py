"""What a grammar leaves out."""

from __future__ import annotations

from .document import Node, UnsupportedSchema


class Gaps:
    """Collects the keywords that a grammar cannot express. If `strict`, the first is an error."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self._keywords: dict[str, None] = {}

    def report(self, keyword: str, node: Node, why: str = "") -> None:
        """Raises UnsupportedSchema if `strict`."""
        if self.strict:
            raise UnsupportedSchema(keyword, node.pointer, why)
        self._keywords[keyword] = None

    @property
    def keywords(self) -> tuple[str, ...]:
        """The keywords that were reported, in their order."""
        return tuple(self._keywords)
