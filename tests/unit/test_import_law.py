"""The import law of the house, read off the imports themselves.

A room may import what its row names, and the standard library. Modules at the top of the package
(errors, gateway, …) are rooms of their own.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "proxy"

# Of ours. A room is always allowed to import itself.
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "errors": set(),
    "cancel": set(),
    "locks": set(),
    "lasting": set(),
    "resources": set(),
    "api_keys": set(),
    "private": set(),
    "config": {
        "",
        "api_keys",
        "core",
        "private",
        "resources",
    },  # "" is proxy/__init__.py: the version
    "wire": {"core", "errors"},
    "prompting": {"core", "errors"},
    "dialects": {"core", "errors", "wire"},
    "scheduling": {"core", "errors", "cancel", "locks"},
    "backends": {
        "lasting",
        "aside",
        "core",
        "errors",
        "cancel",
        "confinement",
        "locks",
        "wire",
        "prompting",
        "config",
    },
    "prompters": {"aside", "core", "errors", "config", "prompting", "backends"},
    "gateway": {
        "aside",
        "core",
        "errors",
        "cancel",
        "compiling",
        "scheduling",
        "prompting",
        "prompters",
        "backends",
    },
    "compiling": {"core", "errors", "aside", "cancel", "children", "confinement", "prompting"},
    "aside": set(),
    "store": {
        "errors",
        "aside",
        "api_keys",
        "knowledge",
        "private",
    },  # rows become knowledge's values
    "keeping": {
        "lasting",
        "aside",
        "api_keys",
        "cancel",
        "config",
        "errors",
        "gateway",
        "knowledge",
        "private",
        "store",
    },
    "knowledge": {"lasting", "core", "errors", "aside", "cancel", "confinement", "store"},
    "web": {
        "lasting",
        "aside",
        "http1",
        "",
        "core",
        "errors",
        "cancel",
        "locks",
        "dialects",
        "gateway",
        "dialogue",
        "knowledge",
        "store",
        "config",
        "resources",
    },
    "confinement": set(),
    "children": {"cancel", "confinement", "errors"},
    "websearch": {"cancel", "children", "confinement", "errors"},
    "agent": {"core", "errors", "cancel", "children"},
    "dialogue": {"core", "errors", "cancel", "gateway", "prompting", "websearch", "agent"},
    "http1": set(),
    "gevent_wire": set(),
    "watchdog": set(),
    "files_limit": set(),
    "waitress_edge": {"http1"},
    "gevent_worker": {"http1", "gevent_wire", "lasting", "watchdog"},
    "overview": {"backends", "config", "keeping", "web"},
    "serve": {"", "app", "config", "files_limit", "http1", "overview", "waitress_edge"},
    "wsgi": {"config", "serve"},
    "__main__": {"config", "serve"},
}
KNOWS_ALL = {"app"}  # the composition root

# Of others. Pure rooms get clocks, ids, files and bytes handed in.
PURE = {"core", "wire", "prompting", "dialects"}
NOT_PURE = {"flask", "werkzeug", "requests", "urllib3", "httptools", "gevent", "gunicorn"}
NOT_PURE |= {"waitress", "socket", "ssl", "select", "selectors", "http", "asyncio", "subprocess"}
NOT_PURE |= {"threading", "time", "os", "random", "uuid", "secrets"}
# Who alone may import a package.
ONLY: dict[str, tuple[str, ...]] = {
    "flask": ("web", "app"),
    "werkzeug": ("web", "app"),
    "httptools": ("backends/http.py", "http1", "websearch/fetch.py"),
    "requests": ("backends/questions.py",),
    "redis": ("scheduling/shared/log.py",),
    "chatglm_cpp": ("backends",),
    "prometheus_client": ("web", "app"),
    "gunicorn": ("serve", "gevent_worker"),
    "waitress": ("serve", "waitress_edge"),
}


def _modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def _imports(source: str, path: Path) -> Iterator[str]:
    """Dotted names of what a module imports at run time, wherever in it the import stands."""
    here = ("proxy", *path.relative_to(PACKAGE).parent.parts)
    tree = ast.parse(source)
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        and ast.unparse(block.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def offences(source: str, path: Path) -> list[str]:
    """What in ``source``, were it the module at ``path``, breaks the law."""
    room = _room(path)
    found = []
    for name in _imports(source, path):
        top, _, rest = name.partition(".")
        if top == "proxy":
            other = rest.split(".")[0]
            if not (PACKAGE / other).is_dir() and not (PACKAGE / f"{other}.py").is_file():
                other = ""  # a name out of proxy/__init__.py
            if room not in KNOWS_ALL and other != room and other not in MAY_IMPORT[room]:
                found.append(f"{room} must not import {name}")
        elif room in PURE and top in NOT_PURE:
            found.append(f"{room} is pure: no {top}")
        elif top in ONLY:
            where = path.relative_to(PACKAGE).as_posix()
            if not any(where in (one, f"{one}.py") or where.startswith(f"{one}/")
                       for one in ONLY[top]):  # fmt: skip
                found.append(f"{top} is for {' and '.join(ONLY[top])} alone")
    return found


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_keeps_the_law(path: Path) -> None:
    room = _room(path)
    assert room == "" or room in KNOWS_ALL or room in MAY_IMPORT, f"no row for {room}"
    assert offences(path.read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("core/x.py", "from proxy.errors import ProxyError"),
        ("core/x.py", "def f():\n    import time"),
        ("wire/x.py", "from proxy import config"),
        ("wire/x.py", "from ..dialects import openai"),
        ("dialects/x.py", "from proxy.backends.driver import Driver"),
        ("backends/x.py", "import proxy.dialects.openai"),
        ("backends/x.py", "from httptools import HttpResponseParser"),
        ("backends/x.py", "from flask import request"),
        ("gateway.py", "from proxy.web import auth"),
        ("errors.py", "from proxy.core import events"),
    ],
)
def test_offences_are_seen(where: str, source: str) -> None:
    assert offences(source, PACKAGE / where) != []


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("wire/x.py", "from proxy.core.events import Started\nimport json"),
        ("web/x.py", "from flask import Blueprint\nfrom proxy import __version__"),
        ("backends/http.py", "import httptools, socket"),
        ("app.py", "from proxy.web import routes\nfrom proxy.backends import pool"),
        ("core/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import time"),
    ],
)
def test_what_is_allowed(where: str, source: str) -> None:
    assert offences(source, PACKAGE / where) == []


def test_settings_and_serving_do_not_load_what_gevent_patches() -> None:
    """gunicorn's master imports these before a worker's gevent patches sockets and ssl."""
    code = (
        "import sys, proxy.config, proxy.serve; "
        "print([m for m in ('flask', 'requests', 'urllib3', 'ssl') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_start_does_not_load_what_only_some_requests_need() -> None:
    late = "jsonschema prometheus_client asyncio sqlalchemy alembic apsw mcp redis chatglm_cpp"
    code = f"import sys, proxy.app; print([m for m in {late.split()} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
