"""What the documentation names exists, and what the program has is documented."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.exceptions import NotFound
from werkzeug.routing import MapAdapter

from proxy import errors
from proxy.app import create_app
from proxy.config import Settings, load, table
from proxy.config.command_line import of_command, split
from tests.docs_pages import PAGES, ROOT, blocks, name, write_files
from tools import generated_docs

DOCS = ROOT / "docs"
TEXTS = {
    name(page): generated_docs.filled(name(page).removeprefix("docs/"), page.read_text("utf-8"))
    for page in PAGES
}
# Flags of other programs and of our other commands that the pages name.
FOREIGN = frozenset(
    """--cache-ram --chat-template-file --check --clean --convert --dbname
    --embeddings --file --force --format --graceful-timeout --if-exists
    --inference-path --jinja --json --key-file --list --lora --lora-init-without-apply
    --lora-scaled --match --mmproj --modelfile --models-dir --models-max
    --models-preset --no-cache-idle-slots --no-models-autoload --prewarm --public
    --report --request-path --rounds --runs --slot-save-path --system --time --tokens
    --url""".split()
)
CODE = re.compile(r"`([^`\n]+)`")
PRINTING = {"--version"}
METHODS = ("GET", "POST", "PUT", "DELETE")
INTERNAL = ("/pages/api/",)  # asked for by the pages alone
ROUTE = re.compile(r"\b(GET|POST|PUT|DELETE)(?:,? (?:GET|POST|PUT|DELETE))* (/[\w{}./-]*)")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """Everything there is to serve, in front of nothing."""
    data = tmp_path_factory.mktemp("data")
    flags = ["--llama-api", "http://127.0.0.1:9", "--chatchat", "--metrics", "--data", str(data)]
    yield create_app(load(flags, {}))


@pytest.fixture(scope="module")
def routes(app: Flask) -> set[tuple[str, str]]:
    """Methods and paths, but not of WebSockets; a part that varies is {id}."""
    return {
        (method, re.sub(r"<[^>]*>", "{id}", path))
        for rule in app.url_map.iter_rules()
        if not rule.websocket
        for path in _each(rule.rule)
        for method in (rule.methods or set()) & {*METHODS}
    }


def _each(rule: str) -> list[str]:
    """A path for each of the words that a part may be."""
    words = re.search(r"<any\(([^)]*)\):\w+>", rule)
    return [rule.replace(words[0], word) for word in words[1].split(", ")] if words else [rule]


def _routes(text: str) -> set[tuple[str, str]]:
    return {(found[1], re.sub(r"{\w+}", "{id}", found[2])) for found in ROUTE.finditer(text)}


# -- flags -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", TEXTS)
def test_every_flag_on_a_page_exists(page: str) -> None:
    known = {row.flag for row in table()} | {"--config", "--from", "--help", "--version"} | FOREIGN
    known |= {row.flag.replace("--", "--no-", 1) for row in table() if row.type is bool}
    commands = [" ".join(flags) for one in blocks(ROOT / page) for flags in one.flags]
    ours = "\n".join([*CODE.findall(TEXTS[page]), *commands])
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", ours))
    assert named - known == set()


def test_every_flag_is_on_the_page_of_settings() -> None:
    shown = set(re.findall(r"^\| `(--[a-z-]+)` ", TEXTS["docs/settings.md"], re.M))
    assert shown == {row.flag for row in table()}


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.flags for b in blocks(page))])
def test_every_command_that_starts_a_gateway_can_be_parsed(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(page, tmp_path)
    (tmp_path / "chatglm3-ggml.bin").touch()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.gguf").touch()
    (tmp_path / "config.yaml").write_text('{"models": {"m": {"cmd": "server --port ${PORT}"}}}')
    (tmp_path / "models.ini").write_text("[m]\nmodel = models/model.gguf\n")
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        for flags in block.flags:
            command, settings = split(flags)
            if command == "init" or "slotproxy.toml" in settings:  # which init writes
                continue
            if command:
                _, settings = of_command(command, settings)
            if not PRINTING & {*settings}:
                assert isinstance(load(settings, {}), Settings), block.id
        if block.title.endswith(".toml"):
            assert isinstance(load(["--config", block.title], {}), Settings), block.id


# -- routes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", TEXTS)
def test_every_route_on_a_page_exists(page: str, app: Flask) -> None:
    adapter: MapAdapter = app.url_map.bind("localhost")
    for method, path in _routes(TEXTS[page]):
        try:
            adapter.match(path.replace("{id}", "1"), method=method)
        except NotFound:
            pytest.fail(f"{page} names {method} {path}")


def test_every_route_is_in_the_http_reference(routes: set[tuple[str, str]]) -> None:
    shown = _routes(TEXTS["docs/http.md"])
    internal = {one for one in routes if one[1].startswith(INTERNAL)}
    # "Also without /v1".
    short = {one for one in routes - shown if (one[0], "/v1" + one[1]) in shown}
    assert routes - internal - short == shown


def test_http_reference_begins_with_chats() -> None:
    first = re.search(r"^\| `(.*?)` \|", TEXTS["docs/http.md"], re.M)
    assert first is not None and first[1] == "POST /v1/chat/completions"


# -- error codes, packages, files ------------------------------------------------------------------


def _codes() -> set[str]:
    """Every code in the source: of a class of errors, or given where one is raised."""
    found = {
        one.code
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, errors.GatewayError) and one.code
    }
    for path in (ROOT / "proxy").rglob("*.py"):
        text = path.read_text("utf-8")
        if "GatewayError" in text or "import" in text:
            found |= set(re.findall(r"\bcode=\"([a-z_]+)\"", text))
            found |= set(re.findall(r"^    code = \"([a-z_]+)\"$", text, re.M))
    return found


UNSEEN = {"client_closed_request", "no_idle_slot"}  # the client has left, a batch tries again
OTHER_CODES = {
    "rate_limit_exceeded",  # OpenAI's own, inside a response
    "server_error",
    "model_load_failed",  # named by a constant
    "model_not_loaded",
}


def test_error_codes_equal_those_of_the_program() -> None:
    table_ = TEXTS["docs/http.md"].partition("## Errors")[2]
    shown = {
        code
        for line in table_.splitlines()
        if re.match(r"\| \d{3} \|", line)
        for code in CODE.findall(line.split("|")[2])
    }
    assert _codes() - UNSEEN - OTHER_CODES == shown - OTHER_CODES
    source = "".join(path.read_text("utf-8") for path in (ROOT / "proxy").rglob("*.py"))
    for code in shown & OTHER_CODES:
        assert f'"{code}"' in source


def test_architecture_page_names_every_package() -> None:
    packages = {path.parent.name for path in (ROOT / "proxy").glob("*/__init__.py")}
    shown = set(re.findall(r"^\| `proxy/(\w+)` ", TEXTS["docs/architecture.md"], re.M))
    assert shown == packages
    drawing = (DOCS / "images" / "architecture.svg").read_text("utf-8")
    titles = re.findall(r'font-weight="bold"[^>]*>([^<]*)<', drawing)
    drawn = {room for title in titles for room in title.split(", ")}
    assert drawn == packages | {"errors", "compiling", "referee"}


@pytest.mark.parametrize("page", TEXTS)
def test_every_file_and_module_on_a_page_exists(page: str) -> None:
    text = TEXTS[page]
    named = re.findall(r"`((?:proxy|tests|tools|benchmarks|templates|docs)/[\w./-]*)", text)
    assert [path for path in named if not (ROOT / path).exists()] == []
    modules = re.findall(r"python -m ((?:proxy|tests|tools|benchmarks)[\w.]*)", text)
    assert [module for module in modules if find_spec(module) is None] == []


@pytest.mark.parametrize("page", TEXTS)
def test_every_make_target_on_a_page_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    named = re.findall(r"(?:`|^)make ([a-z-]+)", TEXTS[page], re.M)
    assert set(named) <= targets


def test_every_block_that_is_not_run_has_a_reason() -> None:
    for page in PAGES:
        for block in blocks(page):
            if block.mark and block.language in ("sh", "python"):
                assert re.match(r"gateway$|not run: \w+", block.mark), block.id


# -- the site --------------------------------------------------------------------------------------

LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?([^\"' >]+)"
    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|icon|preconnect|preload|modulepreload))"
    r"[^>]*\bhref=[\"']?([^\"' >]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert " is down" not in built.stdout + built.stderr
    return folder


def test_site_loads_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = [a or b for a, b in LOADED.findall(page.read_text("utf-8"))]
        assert loaded
        assert [address for address in loaded if "//" in address] == [], page
        assert 'class="mermaid"' not in page.read_text("utf-8")  # its script is on a CDN
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text("utf-8")), style


def test_site_has_the_mark_of_the_pages() -> None:
    mark = (DOCS / "images" / "mark.svg").read_text("utf-8")
    assert mark == (ROOT / "proxy" / "web" / "static" / "icon.svg").read_text("utf-8")


# -- messages --------------------------------------------------------------------------------------

OTHERS_WORDS = ("CUDA error: out of memory", "failed to allocate")
NO_MESSAGE = re.compile("^(curl|slotproxy|llama-server|-)| = ")


def _messages() -> list[str]:
    """Every text in the source, with … for what is filled in, and those of the pages."""
    texts = [(ROOT / "proxy" / "web" / "static" / "texts" / "en.json").read_text("utf-8")]
    for path in (ROOT / "proxy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part for part in node.values)
                texts.append(
                    "".join(
                        str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_messages_on_the_page_of_troubles_are_those_of_the_program() -> None:
    page = re.sub(r"^```.*?^```$", "", TEXTS["docs/troubleshooting.md"], flags=re.M | re.S)
    codes = (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", page))
    quoted = [code for code in codes if code.count(" ") > 1 and not NO_MESSAGE.search(code)]
    messages = _messages()
    assert len(quoted) > 15
    for quote in quoted:
        if quote not in OTHERS_WORDS:
            parts = map(re.escape, re.split("'?…'?", quote))
            pattern = re.compile(".*".join(parts))
            assert any(pattern.search(message) for message in messages), quote
