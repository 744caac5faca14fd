"""What must go so that a model fits."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from proxy.hosting.budget import MEMORY_OF_USES, Limits, Resident, Uses, shortage, victims

residents = st.lists(
    st.tuples(st.integers(0, 100), st.floats(0, 100)).map(lambda pair: pair), max_size=7
).map(lambda pairs: [Resident(f"m{i}", need, worth) for i, (need, worth) in enumerate(pairs)])


def freed(candidates: Sequence[Resident], names: Sequence[str]) -> int:
    return sum(one.need for one in candidates if one.name in names)


@given(residents, st.integers(-50, 400), st.integers(-2, 8))
def test_victims_free_what_is_missing_and_none_of_them_could_stay(
    candidates: list[Resident], memory: int, places: int
) -> None:
    chosen = victims(candidates, memory, places)
    everybody = [one.name for one in candidates]
    if chosen is None:
        assert freed(candidates, everybody) < memory or len(everybody) < places
        return
    assert set(chosen) <= set(everybody)
    assert freed(candidates, chosen) >= memory
    assert len(chosen) >= places
    for one in chosen:
        rest = [name for name in chosen if name != one]
        assert freed(candidates, rest) < memory or len(rest) < places


@given(residents, st.integers(1, 8))
def test_victims_for_places_are_those_worth_least(candidates: list[Resident], places: int) -> None:
    chosen = victims(candidates, 0, places)
    if chosen is not None:
        worths = {one.name: one.worth for one in candidates}
        stay = [worths[name] for name in worths if name not in chosen]
        assert max(worths[name] for name in chosen) <= min(stay, default=1000.0)


def test_a_dear_model_stays_if_a_cheap_one_suffices() -> None:
    small, large = Resident("small", 10, 1.0), Resident("large", 50, 2.0)
    dear = Resident("dear", 100, 9.0)
    assert victims([dear, small, large], 60, 0) == ("small", "large")
    assert victims([dear, small, large], 50, 0) == ("large",)  # the small one would not help
    assert victims([dear, small, large], 0, 0) == ()
    assert victims([dear, small, large], 161, 0) is None


@given(residents, st.integers(0, 100), st.integers(0, 300), st.integers(0, 8))
def test_model_fits_exactly_within_the_limits(
    loaded: list[Resident], need: int, memory: int, models: int
) -> None:
    missing, places = shortage(Limits(memory, models), need, loaded)
    used = freed(loaded, [one.name for one in loaded])
    assert (missing <= 0) == (not memory or used + need <= memory)
    assert (places <= 0) == (not models or len(loaded) + 1 <= models)


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
