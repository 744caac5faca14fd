"""The official clients, imported when a test first uses one. Each costs a second or more, and every
worker of a run imports every file of tests."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["anthropic", "ollama", "openai"]

if TYPE_CHECKING:
    import anthropic
    import ollama
    import openai
else:

    class _Late:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):  # pytest looks at every name in a module for its marks
                raise AttributeError(name)
            return getattr(import_module(self._name), name)

    anthropic, ollama, openai = map(_Late, ("anthropic", "ollama", "openai"))
