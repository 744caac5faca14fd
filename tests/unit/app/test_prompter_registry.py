"""Templates that backends tell."""

from __future__ import annotations

from pathlib import Path

from proxy.app import prompter_registry
from proxy.app.prompter_registry import Prompters
from proxy.config import Settings
from tests.fakes import ScriptedDriver, make_app, services_of


def test_number_of_cached_templates_is_bounded() -> None:
    """A backend may tell another one at every look."""
    registry = services_of(make_app(ScriptedDriver())).gateway.registry
    made = Prompters(Settings(), registry, Path("templates"))
    for number in range(prompter_registry.MAX_KEPT + 3):
        made._make("m", f"{{{{ messages }}}} {number}", "", "", True)
        assert len(made._found) == min(number + 1, prompter_registry.MAX_KEPT)
    registry.close()
