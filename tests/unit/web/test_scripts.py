"""Static checks of the pages' scripts, without a browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[3]
STATIC = HOME / "proxy" / "web" / "static"
VENDOR = STATIC / "vendor"
SCRIPTS = sorted(p for p in STATIC.rglob("*.js") if VENDOR not in p.parents)
IMPORT = re.compile(r"^import \{([^}]*)\} from \"([^\"]+)\";", re.M)
WHOLE = re.compile(r"^import (?:\* as (\w+) from )?\"([^\"]+)\";", re.M)
EXPORT = re.compile(r"^export (?:async )?(?:function\*?|class|const|let) (\w+)", re.M)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(STATIC).as_posix())
def test_imports_of_scripts_exist_and_are_used(script: Path) -> None:
    text = script.read_text("utf-8")
    rest = WHOLE.sub("", IMPORT.sub("", text))
    assert not re.search(r"^import\b", rest, re.M), "an import of another form: read it here too"
    for name, address in WHOLE.findall(text):
        assert (script.parent / address).resolve().is_file(), address
        assert re.search(rf"\b{name}\b", rest), f"{name} is not used"
    for names, address in IMPORT.findall(text):
        source = (script.parent / address).resolve()
        assert source.is_file(), address
        for name in filter(None, (part.strip() for part in names.split(","))):
            theirs, _, mine = name.partition(" as ")
            assert re.search(rf"\b{mine or theirs}\b", rest), f"{name} is not used"
            if VENDOR not in source.parents:
                assert theirs in EXPORT.findall(source.read_text("utf-8")), name


def test_vendored_libraries_have_a_licence_and_are_listed() -> None:
    listed = (HOME / "CONTRIBUTING.md").read_text("utf-8").casefold()
    for folder in VENDOR.iterdir():
        assert (folder / "LICENSE").is_file(), folder.name
        assert folder.name in listed, folder.name
