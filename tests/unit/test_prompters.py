"""Templates that backends tell."""

from __future__ import annotations

from pathlib import Path

from proxy import prompters
from proxy.config import Settings
from proxy.prompters import Prompters
from tests.fakes import ScriptedDriver, make_app, services_of


def test_templates_that_are_kept_are_bounded() -> None:
    """A backend may tell another one at every look."""
    registry = services_of(make_app(ScriptedDriver())).gateway.registry
    made = Prompters(Settings(), registry, Path("templates"))
    for number in range(prompters.MAX_KEPT + 3):
        made._make("m", f"{{{{ messages }}}} {number}", "", "", True)
        assert len(made._found) == min(number + 1, prompters.MAX_KEPT)
    registry.close()
