"""How this program was installed."""

from __future__ import annotations

import json
import sys
from importlib import metadata, util
from pathlib import Path
from shlex import quote

_ROOT = Path(__file__).resolve().parents[2]


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
