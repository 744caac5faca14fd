"""Kinds of files by name suffix. Their content is checked when they are read."""

from __future__ import annotations

PLAIN = frozenset(
    "txt text log srt vtt rst tex csv tsv json jsonl ndjson yaml yml toml ini cfg conf env "
    "py pyi ipynb js mjs ts jsx tsx java kt kts scala c h cc cpp hpp cxx cs go rs rb php pl lua r "
    "swift m mm sh bash zsh fish ps1 bat sql graphql proto css scss less vue svelte xml svg "
    "cmake make mk dockerfile gradle diff patch asm s f90 jl dart ex exs erl hs ml clj el".split()
)
MARKDOWN = frozenset(("md", "markdown", "mdx"))
PDF = frozenset(("pdf",))
CONVERTED = frozenset(("html", "htm", "xhtml", "docx", "pptx", "xlsx", "xls", "epub"))


def kind(filename: str) -> str:
    """Return "plain", "markdown", "pdf", "converted", or "" for unsupported files."""
    end = filename.rpartition(".")[2].lower()
    kinds = {"plain": PLAIN, "markdown": MARKDOWN, "pdf": PDF, "converted": CONVERTED}
    return next((name for name, ends in kinds.items() if end in ends), "")


def readable(filename: str) -> bool:
    return bool(kind(filename))
