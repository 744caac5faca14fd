"""What must go so that a model fits."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from proxy.hosting.budget import (
    MEMORY_OF_USES,
    Limits,
    Resident,
    Shortage,
    Uses,
    shortage,
    victims,
)

needs = st.lists(st.integers(0, 100), max_size=3).map(tuple)
residents = st.lists(st.tuples(needs, st.floats(0, 100)), max_size=7).map(
    lambda pairs: [Resident(f"m{i}", need, worth) for i, (need, worth) in enumerate(pairs)]
)
missings = st.lists(st.integers(-50, 400), max_size=3).map(tuple)


def freed(candidates: Sequence[Resident], names: Sequence[str]) -> list[int]:
    """Of the memory and of two cards."""
    chosen = [(*one.need, 0, 0, 0)[:3] for one in candidates if one.name in names]
    return [sum(amounts) for amounts in zip(*chosen, strict=True)] or [0, 0, 0]


def suffices(candidates: Sequence[Resident], names: Sequence[str], missing: Shortage) -> bool:
    gaps = zip(missing.memory, freed(candidates, names), strict=False)
    return len(names) >= missing.places and all(free >= gap for gap, free in gaps)


@given(residents, missings, st.integers(-2, 8))
def test_victims_free_what_is_missing_and_none_of_them_could_stay(
    candidates: list[Resident], memory: tuple[int, ...], places: int
) -> None:
    missing = Shortage(memory, places)
    chosen = victims(candidates, missing)
    everybody = [one.name for one in candidates]
    if chosen is None:
        assert not suffices(candidates, everybody, missing)
        return
    assert set(chosen) <= set(everybody)
    assert suffices(candidates, chosen, missing)
    for one in chosen:
        assert not suffices(candidates, [name for name in chosen if name != one], missing)


@given(residents, st.integers(1, 8))
def test_victims_for_places_are_those_worth_least(candidates: list[Resident], places: int) -> None:
    chosen = victims(candidates, Shortage((), places))
    if chosen is not None:
        worths = {one.name: one.worth for one in candidates}
        stay = [worths[name] for name in worths if name not in chosen]
        assert max(worths[name] for name in chosen) <= min(stay, default=1000.0)


def test_a_dear_model_stays_if_a_cheap_one_suffices() -> None:
    small, large = Resident("small", (10,), 1.0), Resident("large", (50,), 2.0)
    dear = Resident("dear", (100,), 9.0)

    def going(memory: int) -> tuple[str, ...] | None:
        return victims([dear, small, large], Shortage((memory,), 0))

    assert going(60) == ("small", "large")
    assert going(50) == ("large",)  # the small one would not help
    assert going(0) == ()
    assert going(161) is None


def test_model_of_another_card_stays() -> None:
    first, second = Resident("first", (10, 0, 50), 1.0), Resident("second", (10, 50), 9.0)
    assert victims([first, second], Shortage((-100, 40), 0)) == ("second",)
    assert victims([first, second], Shortage((0, 0, 51), 0)) is None


@given(residents, needs, st.lists(st.integers(0, 300), max_size=3), st.integers(0, 8))
def test_model_fits_exactly_within_the_limits(
    loaded: list[Resident], need: tuple[int, ...], amounts: list[int], models: int
) -> None:
    memory, *cards = amounts or [0]
    missing = shortage(Limits(memory, models, tuple(cards)), need, loaded)
    used = freed(loaded, [one.name for one in loaded])
    limits = (memory, *cards, 0, 0, 0)
    fits = [
        not limit or taken + more <= limit
        for taken, more, limit in zip(used, (*need, 0, 0, 0), limits, strict=False)
    ]
    assert [gap <= 0 for gap in (*missing.memory, 0, 0, 0)[:3]] == fits
    assert (missing.places <= 0) == (not models or len(loaded) + 1 <= models)
    assert bool(missing) == (not all(fits) or missing.places > 0)


def test_chance_of_a_use_grows_with_uses_and_falls_with_silence() -> None:
    once, often = Uses(), Uses()
    assert once.chance(5.0) == 0.0
    once.add(0.0)
    for second in range(5):
        often.add(float(second))
    assert 0 < once.chance(10.0) < often.chance(10.0) < 1
    assert often.chance(10 * MEMORY_OF_USES) < once.chance(10.0)
    older, newer = Uses(), Uses()
    older.add(0.0)
    newer.add(1.0)
    assert older.chance(100.0) < newer.chance(100.0)
