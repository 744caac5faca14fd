"""What an empty chat offers to try."""

from __future__ import annotations

from collections.abc import Collection

OFFERED = 4
CALCULATOR = "calculator"  # the tool of the question that needs one
PLAIN = ("explain", "write", "code", "plan")  # questions that any model can answer


def offers(
    *, files: bool, bases: bool, sees: bool, engines: bool, tools: Collection[str]
) -> tuple[str, ...]:
    """Four things to try: first those that are configured here, and at least one plain question.

    `files`: documents can be added; `bases`: there is a knowledge base; `sees`: a model accepts
    images; `engines`: the web can be searched; `tools` are the names an agent may use.
    """
    configured = {
        "files": files,
        "base": bases,
        "image": sees,
        "search": engines,
        "tools": CALCULATOR in tools,
    }
    found = [name for name, there in configured.items() if there]
    return (*found[: OFFERED - 1], *PLAIN)[:OFFERED]
