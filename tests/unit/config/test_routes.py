"""The ``[[route]]`` tables of the settings file."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config import Settings, SettingsError, load
from proxy.core.task import Tier

BACKENDS = """
[[backend]]
name = "gpu-1"
url = "http://127.0.0.1:9001"

[[backend]]
name = "gpu-2"
url = "http://127.0.0.1:9002"
"""
ROUTE = """
[[route]]
model = "assistant"
overflow_after = 5
tiers = [{ name = "own", backends = ["gpu-1"] }, { name = "cloud", backends = ["gpu-2"] }]
"""


def read(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "slotproxy.toml"
    file.write_text(text)
    return load(["--config", str(file)], {})


def test_backends_get_their_place_in_the_route(tmp_path: Path) -> None:
    settings = read(tmp_path, BACKENDS + ROUTE)
    places = {backend.name: backend.place for backend in settings.backends}
    assert {name: place and place.model for name, place in places.items()} == {
        "gpu-1": "assistant",
        "gpu-2": "assistant",
    }
    assert [place.tier for place in places.values() if place] == [
        Tier(0, "own", 5.0),
        Tier(1, "cloud", 5.0),
    ]


def test_backends_outside_of_routes_have_no_place(tmp_path: Path) -> None:
    text = '\n[[route]]\nmodel = "m"\ntiers = [{ name = "own", backends = ["gpu-1"] }]'
    settings = read(tmp_path, BACKENDS + text)
    assert [backend.place is not None for backend in settings.backends] == [True, False]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (ROUTE.replace("gpu-2", "gpu-3"), "there is no backend named 'gpu-3'; the names are gpu-1"),
        (ROUTE + ROUTE, "two routes have this model"),
        (ROUTE.replace("cloud", "own"), "two tiers have the same name"),
        (ROUTE.replace("gpu-2", "gpu-1"), "the backend 'gpu-1' is in the route assistant already"),
        (ROUTE.replace("overflow_after = 5", "overflow_after = -1"), "overflow_after"),
        (ROUTE.replace("overflow_after", "overflow"), "overflow"),
        (ROUTE.replace('"cloud"', '"a cloud"'), "name"),
        ('\n[[route]]\nmodel = "m"\ntiers = []', "tiers"),
        ('\nroute = "m"', "route"),
    ],
)
def test_wrong_route_is_refused_in_one_line(tmp_path: Path, text: str, why: str) -> None:
    text = text + BACKENDS if text.startswith("\nroute =") else BACKENDS + text
    with pytest.raises(SettingsError, match="route") as error:
        read(tmp_path, text)
    assert why in str(error.value)
    assert "\n" not in str(error.value)
