"""Routes that cost little until somebody asks for their address."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from werkzeug.routing import Rule


class LateRule(Rule):
    """A rule whose builder, which makes addresses for url_for(), is compiled when it is first
    called: to compile it for all hundred and fifty takes a twentieth of a start, and pages ask for
    a dozen. (Where werkzeug comes to build addresses otherwise, nobody calls this.)"""

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        compiled = super()._compile_builder

        @cache
        def ready() -> Callable[..., tuple[str, str]]:
            return compiled(append_unknown)

        def build(rule: Rule, /, **values: Any) -> tuple[str, str]:
            return ready()(rule, **values)

        return build
