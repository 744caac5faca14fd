"""Finding by words, without a model: how texts are cut into terms, and how near they are.

The same cutting on both databases, so the same things are found on both: words without case,
accents and English endings; scripts that put no blanks between words (Chinese above all) as every
character and every pair of neighbours. A pair is nearly a word, and a single character is found
too, where an index of threes finds neither one nor two.

A score must mean the same in a base of three chunks and of ten thousand, and be from 0 to 1. It is
BM25 divided by what a chunk of average length would get that has each term of the query once. Pure.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

VERSION = 1  # another one with every change of how texts are cut: what was cut before is forgotten
MOST_QUERY = 2000  # characters of a query that are looked at
MOST_TERMS = 64  # of a query; the first ones
LONGEST = 48  # characters of a term
SINGLE = 0.25  # weight of a character beside the pairs it is in
ABSENT = 0.5  # of a word that the base does not have at all: it may be said in another way there
K1, B = 1.2, 0.75  # BM25's usual values
PRIOR = (
    100  # rows that have none of the terms, added to each base: else a small one knows no rarity
)

# Han, kana, Thai, Lao, Burmese, Khmer and Hangul (whose words carry their particles).
_DENSE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUN = re.compile(rf"([{_DENSE}]+)|([^\W_{_DENSE}]+)")

# Words that say how a question is asked and not what about.
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
    """A term of a query. A `pair` that a base does not have at all is the seam of two words, not a
    word that is missing."""

    text: str
    weight: float = 1.0
    pair: bool = False


def terms(text: str) -> Iterator[str]:
    """All terms of a text, in order, with repetitions. A term is made of letters and digits."""
    for dense, word in _runs(text):
        if dense:
            yield from dense
            yield from _pairs(dense)
        else:
            yield _plain(word)


def question(text: str) -> tuple[Term, ...]:
    """The distinct terms of a query, without the words that only ask; these, if there are no
    others."""
    found: dict[str, Term] = {}
    asking: dict[str, Term] = {}
    for dense, word in _runs(text[:MOST_QUERY]):
        for term in _dense(dense) if dense else (Term(_plain(word)),):
            idle = _idle(term) if dense else word in _PLAIN
            (asking if idle else found).setdefault(term.text, term)
    return tuple((found or asking).values())[:MOST_TERMS]


def joined(words: Iterable[str]) -> str:
    """Terms as one text in which `count(joined([term]))` tells how often one is there."""
    return "".join(f" {word} " for word in words)


def rarity(rows: int, having: int) -> float:
    """How much a term tells that `having` of `rows` chunks have: above 0."""
    return math.log(1.0 + (rows + PRIOR - having + 0.5) / (having + 0.5))


def weights(query: Iterable[Term], rows: int, having: Mapping[str, int]) -> dict[str, float]:
    """What each term counts in a base."""
    counts = {}
    for term in query:
        if found := having.get(term.text, 0):
            counts[term.text] = term.weight * rarity(rows, found)
        elif not term.pair:
            counts[term.text] = term.weight * rarity(rows, 0) * ABSENT
    return counts


def nearness(counts: Mapping[str, int], weighed: Mapping[str, float], length: float) -> float:
    """How near a chunk is that has a term so many times, of `length` times the average length;
    0 without any, about 1 with all. Not bounded."""
    if not (whole := sum(weighed.values())):
        return 0.0
    damping = K1 * (1.0 - B + B * length)
    told = sum(
        weighed[term] * count * (K1 + 1.0) / (count + damping) for term, count in counts.items()
    )
    return told / whole


def _runs(text: str) -> Iterator[tuple[str, str]]:
    return (m.groups(default="") for m in _RUN.finditer(_folded(text)))  # type: ignore[misc]


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _plain(word: str) -> str:
    """A word without accents and English endings."""
    if not word.isascii():
        apart = unicodedata.normalize("NFD", word)
        word = "".join(c for c in apart if not unicodedata.combining(c))
    return (_stem(word) if word.isascii() else word)[:LONGEST]


def _stem(word: str) -> str:
    """Without -s, -ed, -ing and a last -e: Porter's first step, and what makes its exceptions
    needless (making and make both become mak). It need be no word, only the same one."""
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
    yield from (Term(one, SINGLE) for one in dense)


def _idle(term: Term) -> bool:
    characters = set(term.text)
    return characters <= _PARTICLES or bool(term.pair and characters & _ALWAYS_BETWEEN)
