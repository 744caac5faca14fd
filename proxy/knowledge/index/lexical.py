"""Search by words, without a model: splits text into terms and scores matches. Pure.

Terms are words without case, accents and English endings; in scripts without blanks (Chinese),
single characters and pairs of neighbours. A score is BM25 divided by that of a chunk of average
length that has each query term once, so it means the same in small and large bases.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

VERSION = 1  # increase with every change of how text is split; other versions' terms are deleted
MOST_QUERY = 2000  # characters of a query that are used
MOST_TERMS = 64  # of a query; the rest is ignored
LONGEST = 48  # characters of a term
SINGLE = 0.25  # weight of a character compared with the pairs it is in
ABSENT = 0.5  # of a word that is not in the base at all, which may use a synonym
K1, B = 1.2, 0.75  # BM25's usual values
# Rows without any of the terms, added to each base: otherwise small bases have no rare words.
PRIOR = 100

# Han, kana, Thai, Lao, Burmese, Khmer and Hangul (whose words carry their particles).
_DENSE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUN = re.compile(rf"([{_DENSE}]+)|([^\W_{_DENSE}]+)")

# Question words, which do not say what the question is about.
_PLAIN = frozenset(
    "a an and are as at be by can could did do does for from had has have how i if in into is it "
    "its me my no not of on or our please shall should so tell than that the their them then there "
    "these they this those to us was we were what when where which who whose why will with would "
    "you your".split()
)
_PARTICLES = frozenset(
    "的了吗呢吧啊呀么之与及和或是在有多什怎如何哪谁几为个这那我你他她它们也都就不请问能会可以要到从对"
    "被把让给而但并且则吾其所于"
)
_VOWELS = frozenset("aeiouy")
_ALWAYS_BETWEEN = frozenset("的了吗呢吧啊呀么")


class Term(Struct, frozen=True):
    """A term of a query. A `pair` that is nowhere in the base is a boundary of two words."""

    text: str
    weight: float = 1.0
    pair: bool = False


def terms(text: str) -> Iterator[str]:
    """Yield all terms of a text, in order, with repetitions: letters and digits."""
    for dense, word in _runs(text):
        if dense:
            yield from dense
            yield from _pairs(dense)
        else:
            yield _plain(word)


def question(text: str) -> tuple[Term, ...]:
    """Return the distinct terms of a query, without question words unless there are no others."""
    subject: dict[str, Term] = {}
    asking: dict[str, Term] = {}
    for dense, word in _runs(text[:MOST_QUERY]):
        for term in _dense(dense) if dense else (Term(_plain(word)),):
            idle = _idle(term) if dense else word in _PLAIN
            (asking if idle else subject).setdefault(term.text, term)
    return tuple((subject or asking).values())[:MOST_TERMS]


def joined(words: Iterable[str]) -> str:
    """Join terms into one text in which `count(joined([term]))` is the frequency of a term."""
    return "".join(f" {word} " for word in words)


def rarity(rows: int, having: int) -> float:
    """Return how significant a term is that `having` of `rows` chunks contain: above 0."""
    return math.log(1.0 + (rows + PRIOR - having + 0.5) / (having + 0.5))


def weights(query: Iterable[Term], rows: int, having: Mapping[str, int]) -> dict[str, float]:
    counts = {}
    for term in query:
        if rows_with := having.get(term.text, 0):
            counts[term.text] = term.weight * rarity(rows, rows_with)
        elif not term.pair:
            counts[term.text] = term.weight * rarity(rows, 0) * ABSENT
    return counts


def nearness(counts: Mapping[str, int], weighed: Mapping[str, float], length: float) -> float:
    """Return how near a chunk is that has these term frequencies, and `length` times the average
    length: 0 without any term, about 1 with all. Not bounded."""
    if not (whole := sum(weighed.values())):
        return 0.0
    damping = K1 * (1.0 - B + B * length)
    score = sum(
        weighed[term] * count * (K1 + 1.0) / (count + damping) for term, count in counts.items()
    )
    return score / whole


def _runs(text: str) -> Iterator[tuple[str, str]]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return (m.groups(default="") for m in _RUN.finditer(folded))  # type: ignore[misc]


def _plain(word: str) -> str:
    if not word.isascii():
        apart = unicodedata.normalize("NFD", word)
        word = "".join(c for c in apart if not unicodedata.combining(c))
    return (_stem(word) if word.isascii() else word)[:LONGEST]


def _stem(word: str) -> str:
    """Remove -s, -ed, -ing and a last -e (Porter's first step): making and make become mak."""
    if len(word) > 3 and word.endswith("s"):
        if word.endswith("ies"):
            word = word[:-3] + "y"
        elif word.endswith(("sses", "shes", "ches", "xes", "zes")):
            word = word[:-2]
        elif not word.endswith(("ss", "us", "is")):
            word = word[:-1]
    for ending in ("ing", "ed"):
        rest = word.removesuffix(ending)
        if rest != word and len(rest) > 2 and _VOWELS.intersection(rest):
            doubled = rest[-1] == rest[-2] and rest[-1] not in "lsz"
            return (rest[:-1] if doubled else rest).removesuffix("e")
    return word.removesuffix("e") if len(word) > 3 else word


def _pairs(dense: str) -> Iterator[str]:
    return (dense[i : i + 2] for i in range(len(dense) - 1))


def _dense(dense: str) -> Iterator[Term]:
    if len(dense) == 1:
        yield Term(dense)
        return
    yield from (Term(pair, pair=True) for pair in _pairs(dense))
    yield from (Term(character, SINGLE) for character in dense)


def _idle(term: Term) -> bool:
    characters = set(term.text)
    return characters <= _PARTICLES or bool(term.pair and characters & _ALWAYS_BETWEEN)
