"""Published faults of llama.cpp's builds."""

from __future__ import annotations

import pytest

from proxy.app.findings import FAULTS, build_number, faults_of


@pytest.mark.parametrize(
    ("build", "number"),
    [
        ("b6097-9515c613", 6097),
        ("b1-0c1e570", 0),  # built without git's history
        ("b0-unknown", 0),
        ("", 0),
        ("1.2.3", 0),
        ("b99999999-x", 0),
    ],
)
def test_number_of_a_build(build: str, number: int) -> None:
    assert build_number(build) == number


def test_faults_are_those_that_were_corrected_later() -> None:
    assert faults_of("b5661-abc") == FAULTS
    assert [fault.name for fault in faults_of("b8910-abc")] == ["CVE-2026-21869"]
    assert faults_of("b8911-abc") == ()
    assert faults_of("b1-abc") == ()
