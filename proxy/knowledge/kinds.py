"""Kinds of files by name suffix. Their content is checked when they are read."""

from __future__ import annotations

_PLAIN = frozenset(
    "txt text log srt vtt rst tex csv tsv json jsonl ndjson yaml yml toml ini cfg conf env "
    "py pyi ipynb js mjs ts jsx tsx java kt kts scala c h cc cpp hpp cxx cs go rs rb php pl lua r "
    "swift m mm sh bash zsh fish ps1 bat sql graphql proto css scss less vue svelte xml svg "
    "cmake make mk dockerfile gradle diff patch asm s f90 jl dart ex exs erl hs ml clj el".split()
)
KINDS = {
    "plain": _PLAIN,
    "markdown": frozenset(("md", "markdown", "mdx")),
    "pdf": frozenset(("pdf",)),
    "converted": frozenset(("html", "htm", "xhtml", "docx", "pptx", "xlsx", "xls", "epub")),
}


def kind(filename: str) -> str:
    """Return "plain", "markdown", "pdf", "converted", or "" for unsupported files."""
    end = filename.rpartition(".")[2].lower()
    return next((name for name, ends in KINDS.items() if end in ends), "")
