"""How this program was installed, and its data files, in a checkout and installed."""

from __future__ import annotations

import json
import sys
from importlib import metadata, util
from pathlib import Path
from shlex import quote

_PACKAGE = Path(__file__).resolve().parents[1]
_ROOT = _PACKAGE.parent


def install(extra: str) -> str:
    """The command that adds an extra. It has paths of this machine: it is not for clients."""
    if sys.argv[0].endswith(".pyz"):
        return f"make zipapp EXTRAS={extra}"
    python = quote(sys.executable)
    uv = f"uv pip install --python {python}"
    pip = f"{python} -m pip install" if util.find_spec("pip") else uv
    return f"{pip} {quote(_requirement(extra))}"


def _requirement(extra: str) -> str:
    """What pip installs: the checkout, or the file or repository of the first installation."""
    if (_ROOT / "setup.cfg").is_file():
        return f"{_ROOT}[{extra}]"
    try:
        # https://packaging.python.org/en/latest/specifications/direct-url/
        origin = json.loads(metadata.distribution("slotproxy").read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:
        origin = {}
    url, vcs = origin.get("url", ""), origin.get("vcs_info", {}).get("vcs", "")
    source = f" @ {vcs}{'+' if vcs else ''}{url}" if url else ""
    return f"slotproxy[{extra}]{source}"


def templates() -> Path:
    """The folder of templates, which setup.py maps into the package when a wheel is built."""
    installed = _PACKAGE / "templates"
    return installed if installed.is_dir() else _ROOT / "templates"


def bundled() -> Path:
    """The bundled chatglm_cpp model file. It may be missing; it is stored like templates."""
    name = "tinychat-chatglm3.bin"
    installed = _PACKAGE / "models" / name
    return installed if installed.is_file() else _ROOT / "models" / name


def dialogues() -> dict[str, dict[str, str]]:
    """The texts of the dialogues' prompt templates, by kind and name."""
    texts: dict[str, dict[str, str]] = {}
    for path in sorted((templates() / "dialogues").glob("*/*.jinja")):
        texts.setdefault(path.parent.name, {})[path.stem] = path.read_text("utf-8")
    return texts
