"""Pages become text, text becomes passages, the passages that fit are chosen."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.websearch.passages import SIZE, best, split, terms, text_of


def test_page_is_reduced_to_its_text() -> None:
    page = (
        "<html><head><title>t</title><style>p{}</style></head><body><nav>menu</nav>"
        "<h1>Harbour</h1><p>Ships &amp; <b>boats</b><br>come.</p><script>x</script></body>"
    )
    assert text_of(page.encode(), "text/html") == "Harbour\nShips & boats\ncome."
    assert text_of("船".encode("gbk"), "text/plain; charset=gbk") == "船"
    assert text_of("<meta charset=gbk>船".encode("gbk"), "text/html") == "船"
    assert text_of(b"\x89PNG", "image/png") == ""
    for charset in ("nonsense", "idna", "punycode", "undefined", "rot13", "unicode_escape"):
        assert "x" in text_of(b"x\xff\\", f"text/plain; charset={charset}")


@pytest.mark.parametrize(
    "piece",
    ["<", "<!--", "<a ", "&#", "<![", "</", "<a href='", "<script>", "<?", "<p/>", "<nav>", "&#9"],
)  # fmt: skip
def test_hostile_page_is_read_fast(piece: str) -> None:
    began = time.thread_time()
    text_of((piece * 200_000).encode(), "text/html")
    assert time.thread_time() - began < 5


def test_malformed_markup_is_text() -> None:
    page = "<p>1 < 2 &amp; 3 &#x8239;<!-- <b>no</b> --><title>no</title>yes</p><svg><p>no</svg>end"
    assert text_of(page.encode(), "text/html") == "1 < 2 & 3 船yes\nend"
    assert text_of(b"a<script>if (a < b) {}</script>b<!-- open", "text/html") == "ab"
    assert text_of(b"x&#99999999999999;y", "text/html") == "x;y"


def test_chinese_text_is_split_into_bigrams() -> None:
    assert terms("港口 in 2026年") == ["港口", "in", "2026", "年"]
    assert terms("深水港") == ["深水", "水港"]


def test_best_passages_keep_their_order() -> None:
    passages = ["ships sail", "nothing", "ships come to the harbour", "harbour"]
    assert best(passages, "harbour ships", 2) == ["ships sail", "ships come to the harbour"]
    assert best(passages, "深水", 2) == []


@given(st.text(max_size=5000))
def test_passages_lose_only_blanks(text: str) -> None:
    parts = split(text)
    assert all(len(part) <= SIZE for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


@given(st.binary(max_size=300), st.sampled_from(["text/html", "", "text/plain; charset=utf-16"]))
def test_any_bytes_are_decoded(data: bytes, kind: str) -> None:
    text_of(b"<p>" + data, kind)
