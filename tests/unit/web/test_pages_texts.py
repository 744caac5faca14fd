"""The texts of the pages: the same keys in each language, all of them used, and none elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.web.pages import texts

HOME = Path(__file__).resolve().parents[3]
SCRIPTS = [
    path
    for path in sorted(texts.STATIC.rglob("*.js"))
    if texts.STATIC / "vendor" not in path.parents
]
TEMPLATES = sorted((HOME / "templates" / "pages").glob("*.html"))
MODULES = sorted((HOME / "proxy" / "web" / "pages").glob("*.py"))
PLACEHOLDER = re.compile(r"\{(\w+)\}")
# A key in quotes, or the part of a template literal or f-string before its first value.
KEY = re.compile(r"""["'`]([a-z]+(?:\.\w+)+\.?)(?:["'`]|\$?\{)""")
CHINESE = re.compile(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
# Two words, the first with a capital: a sentence or a title, not a name or a selector.
SENTENCE = re.compile(r"""["'`][A-Z][a-z]+ [a-z]{2,}[^"'`]*["'`]""")


def flat(part: dict[str, Any], before: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each key with the forms of its text."""
    for name, value in part.items():
        if isinstance(value, str):
            yield before + name, (value,)
        elif "other" in value and "one" in value:
            yield before + name, (value["one"], value["other"])
        else:
            yield from flat(value, f"{before}{name}.")


def load(language: str) -> dict[str, tuple[str, ...]]:
    text = (texts.STATIC / texts.file(language)).read_text("utf-8")
    return dict(flat(json.loads(text, object_pairs_hook=no_duplicates)))


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), f"a key is there twice: {[name for name, _ in pairs]}"
    return dict(pairs)


def used() -> set[str]:
    """Return the keys in the code; one that ends with a dot stands for all keys that begin so."""
    return {
        key
        for path in (*SCRIPTS, *TEMPLATES, *MODULES)
        for key in KEY.findall(path.read_text("utf-8"))
    }


def test_languages_have_the_same_keys_and_placeholders() -> None:
    english, chinese = load("en"), load("zh")
    assert list(english) == list(chinese)
    for key, forms in english.items():
        assert all(forms), key
        assert {*PLACEHOLDER.findall(forms[-1])} == {*PLACEHOLDER.findall(chinese[key][-1])}, key


def test_every_text_is_used_and_every_key_exists() -> None:
    known, wanted = {*load("en")}, used()
    groups = tuple(key for key in wanted if key.endswith("."))
    assert all(group.count(".") > 1 for group in groups), "a computed key must be in a group"
    assert {key for key in known - wanted if not key.startswith(groups)} == set()
    sections = {key.partition(".")[0] for key in known}
    missing = {key for key in wanted - known - {*groups} if key.partition(".")[0] in sections}
    assert {key for key in missing if not is_something_else(key)} == set()


def is_something_else(key: str) -> bool:
    """Whether this is a name of an endpoint, a module or a file."""
    endpoints = ("session.", "chat.page", "chat.conversations", "knowledge.service")
    return key.startswith(endpoints) or key.endswith((".html", ".css", ".js", ".toml"))


@pytest.mark.parametrize("path", [*SCRIPTS, *TEMPLATES, *MODULES], ids=lambda path: path.name)
def test_no_text_of_a_page_is_elsewhere(path: Path) -> None:
    source = path.read_text("utf-8")
    assert not CHINESE.search(source)
    if path.suffix == ".js":
        code = re.sub(r"^\s*(//|\*|/\*).*$", "", source, flags=re.M)
        assert SENTENCE.findall(code) == []
    elif path.suffix == ".html":
        assert re.findall(r"[A-Z]?[a-z]{2,} [a-z]{2,}", visible(source)) == []


def visible(template: str) -> str:
    """Return what a template shows that is not from an expression, without code and names."""
    text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", "", template, flags=re.S)
    text = re.sub(r"<(code|pre)\b.*?</\1>", "", text, flags=re.S)
    named = " ".join(re.findall(r'(?:aria-label|title|placeholder|alt)="([^"]*)"', text))
    return re.sub(r"<[^>]*>", "\n", text) + named
