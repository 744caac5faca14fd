"""The import law, read from the imports themselves.

A room may import what its row names, and the standard library. Modules at the top of the package
(errors, wsgi, …) are rooms of their own. So are the pages (web/pages, "pages") and the routes of
APIs (apis/*/routes, "routes"), which know Flask; the rest of an API is pure. An import for type
checkers alone counts too, except that a pure room may name a type of any library there. No two
modules import each other, however long the way, and no row permits what nothing uses.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "proxy"

# Of ours. A room is always allowed to import itself.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "core": {"errors"},
    "gbnf": {"core"},
    "runtime": {"errors"},
    "config": {"", "accounts", "core", "errors", "runtime"},  # "" is proxy/__init__.py: the version
    "wire": {"core"},
    "prompting": {"core", "errors", "gbnf"},
    "compiling": {"core", "errors", "runtime", "gbnf", "prompting"},
    "apis": {"accounts", "core", "errors", "gbnf", "wire"},
    "referee": {"core"},
    "scheduling": {"core", "errors", "runtime"},
    "backends": {"core", "errors", "runtime", "wire", "prompting", "config", "scheduling"},
    "hosting": {"core", "errors", "runtime", "wire", "config", "scheduling", "backends"},
    "gateway": {
        "accounts",
        "core",
        "errors",
        "runtime",
        "compiling",
        "gbnf",
        "scheduling",
        "prompting",
        "referee",
        "backends",
    },
    "observe": {"", "core", "errors", "gateway", "runtime", "scheduling", "store", "web"},
    "accounts": {"errors", "runtime"},
    "downloads": {"config", "errors", "hosting", "runtime"},
    "store": {"accounts", "errors", "runtime"},
    "knowledge": {"accounts", "errors", "runtime", "store"},
    "oidc": {"accounts", "config", "errors", "store", "websearch"},
    "websearch": {"backends", "core", "errors", "runtime"},
    "agent": {"core", "errors", "runtime"},
    "dialogue": {
        "accounts",
        "config",
        "core",
        "errors",
        "runtime",
        "gateway",
        "prompting",
        "websearch",
        "agent",
        "knowledge",
    },
    "web": {
        "",
        "accounts",
        "apis",
        "batches",
        "config",
        "core",
        "dialogue",
        "downloads",
        "errors",
        "gateway",
        "hosting",
        "knowledge",
        "observe",
        "oidc",
        "prompting",
        "runtime",
        "server",
        "store",
    },
    "routes": {
        "",
        "accounts",
        "apis",
        "core",
        "dialogue",
        "downloads",
        "errors",
        "gateway",
        "hosting",
        "knowledge",
        "observe",
        "runtime",
        "server",
        "store",
        "web",
    },
    "pages": {
        "accounts",
        "apis",
        "core",
        "dialogue",
        "downloads",
        "errors",
        "gateway",
        "hosting",
        "knowledge",
        "oidc",
        "prompting",
        "routes",
        "runtime",
        "store",
        "web",
    },
    "batches": {
        "apis",
        "core",
        "errors",
        "runtime",
        "store",
        "web",
    },
    "server": {"", "app", "config", "runtime"},
    "wsgi": {"app", "config", "server"},
    "terminal": {"config"},
    "__main__": {"", "app", "config", "runtime", "server", "terminal"},
}
KNOWS_ALL = {"app"}  # the composition root

# Of others. Pure rooms get clocks, ids, files and bytes handed in.
PURE = {"core", "wire", "prompting", "referee", "apis"}
NOT_PURE = {"flask", "werkzeug", "requests", "urllib3", "httptools", "gevent", "gunicorn"}
NOT_PURE |= {"waitress", "socket", "ssl", "select", "selectors", "http", "asyncio", "subprocess"}
NOT_PURE |= {"threading", "time", "os", "random", "uuid", "secrets"}
# The rooms and modules that alone may import a package.
ONLY: dict[str, tuple[str, ...]] = {
    "flask": ("web", "pages", "routes", "batches", "app"),
    "werkzeug": ("web", "pages", "routes", "batches", "app"),
    "httptools": ("backends/http.py", "server/reader.py"),
    "redis": (
        "runtime/redis_client.py",
        "scheduling/shared/log.py",
        "accounts/limiting/shared.py",
    ),
    "huggingface_hub": ("downloads/child.py",),
    "authlib": ("oidc/provider.py",),
    "opentelemetry": ("observe/otel.py",),
    "joserfc": ("oidc/provider.py",),
    "chatglm_cpp": ("backends",),
    "prometheus_client": ("web", "routes", "app"),
    "gunicorn": ("server",),
    "waitress": ("server",),
    "wsproto": ("server/websocket.py",),
    "dataclasses": (),  # each takes half a millisecond of every start; a Struct 0.01
}


def _modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else _room_of(parts)


def _room_of(parts: Sequence[str]) -> str:
    """The room of a module, given its path below the package."""
    if parts[0] == "apis" and parts[2:3] == ("routes",):
        return "routes"
    return "pages" if tuple(parts[:2]) == ("web", "pages") else parts[0]


@cache  # several tests read every module
def _imports(source: str, path: Path) -> tuple[tuple[str, bool], ...]:
    """Dotted names of what a module imports, wherever in it the import stands, and whether it is
    for type checkers alone."""
    return (*_read(source, path),)


def _read(source: str, path: Path) -> Iterator[tuple[str, bool]]:
    here = ("proxy", *path.relative_to(PACKAGE).parent.parts)
    tree = ast.parse(source)
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        and isinstance(block.test, ast.Name | ast.Attribute)
        and ast.unparse(block.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        typing = id(node) in typing_only
        if isinstance(node, ast.Import):
            yield from ((alias.name, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            yield from ((f"{module}.{alias.name}", typing) for alias in node.names)


def _imported_room(name: str) -> str:
    """The room of a name like proxy.web.auth; "" for a name out of proxy/__init__.py."""
    first, *rest = name.split(".")[1:]
    if (PACKAGE / first).is_dir() or (PACKAGE / f"{first}.py").is_file():
        return _room_of((first, *rest))
    return ""


def offences(source: str, path: Path) -> list[str]:
    """The offences in `source`, if it were the module at `path`."""
    room = _room(path)
    breaches = []
    for name, typing in _imports(source, path):
        top = name.partition(".")[0]
        if top == "proxy":
            other = _imported_room(name)
            if room not in KNOWS_ALL and other != room and other not in MAY_IMPORT[room]:
                breaches.append(f"{room} must not import {name}")
        elif typing:
            continue
        elif room in PURE and top in NOT_PURE:
            breaches.append(f"{room} is pure: no {top}")
        elif top in ONLY:
            where = path.relative_to(PACKAGE).as_posix()
            if room not in ONLY[top] and where not in ONLY[top]:
                breaches.append(f"{top} is for {' and '.join(ONLY[top]) or 'nobody'} alone")
    return breaches


def _dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_graph(modules: Mapping[Path, str]) -> dict[str, set[str]]:
    """The imports of each module from the others, by dotted name."""
    names = {_dotted(path) for path in modules}

    def module_of(name: str) -> str:
        while name and name not in names:
            name = name.rpartition(".")[0]
        return name

    return {
        _dotted(path): {module_of(name) for name, _ in _imports(source, path)} - {_dotted(path), ""}
        for path, source in modules.items()
    }


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, in no order; none where there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        modules: list[str] = error.args[1]
        return modules
    return []


def test_no_modules_import_each_other() -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in _modules()}
    assert cycle(module_graph(sources)) == []


def test_no_import_permission_is_unused() -> None:
    used: dict[str, set[str]] = {room: set() for room in MAY_IMPORT}
    for path in _modules():
        imported = _imports(path.read_text(encoding="utf-8"), path)
        rooms = {_imported_room(name) for name, _ in imported if name.startswith("proxy.")}
        used.setdefault(_room(path), set()).update(rooms)
    unused = {room: rooms - used[room] for room, rooms in MAY_IMPORT.items()}
    assert {room: rooms for room, rooms in unused.items() if rooms} == {}


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_follows_the_import_law(path: Path) -> None:
    room = _room(path)
    assert room == "" or room in KNOWS_ALL or room in MAY_IMPORT, f"no row for {room}"
    assert offences(path.read_text(encoding="utf-8"), path) == []


def test_settings_and_serve_import_nothing_that_gevent_patches() -> None:
    """gunicorn's master imports these before a worker's gevent patches sockets and ssl."""
    code = (
        "import sys, proxy.config, proxy.server.serve; "
        "print([m for m in ('flask', 'ssl') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_start_imports_nothing_that_only_some_requests_need() -> None:
    late = (
        "jsonschema prometheus_client asyncio sqlalchemy apsw mcp redis chatglm_cpp opentelemetry"
    )
    code = f"import sys, proxy.app; print([m for m in {late.split()} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
