"""[[price]] tables of the settings file."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config import SettingsError, load
from proxy.config.routes import MOST, PriceConfig, prices


def _loaded(tmp_path: Path, text: str) -> tuple[PriceConfig, ...]:
    file = tmp_path / "slotproxy.toml"
    file.write_text(text, encoding="utf-8")
    return load(["--config", str(file)], {}).price


def test_prices_are_read_from_the_settings_file(tmp_path: Path) -> None:
    text = '[[price]]\nmodel = "qwen*"\nprompt = 0.5\ncached = 0.05\ncompletion = 1.5\n[[price]]\n'
    assert _loaded(tmp_path, text) == (
        PriceConfig(model="qwen*", prompt=0.5, cached=0.05, completion=1.5),
        PriceConfig(),
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("prompt = -1", "must be between 0 and"),
        ("completion = nan", "must be between 0 and"),
        ('prompt = "much"', "Expected `float`"),
        ("output = 1", "unknown field `output`"),
    ],
)
def test_wrong_prices_are_refused_with_their_file(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=f"slotproxy.toml: price: .*{reason}"):
        _loaded(tmp_path, f"[[price]]\n{line}\n")


def test_prices_are_bounded() -> None:
    assert prices([{"prompt": MOST}])
    with pytest.raises(ValueError, match="between 0 and"):
        prices([{"prompt": MOST + 1}])
