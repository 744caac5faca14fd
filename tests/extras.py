"""Modules of tests that need an extra."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def need(extra: str, *modules: str) -> None:
    """Skip the module of tests that says so where one of these is not installed. Nothing is
    imported for that: every worker of a run collects every test, and some take a second."""
    for name in modules:
        if find_spec(name) is None:
            pytest.skip(f"the extra `{extra}` is not installed: no {name}", allow_module_level=True)
