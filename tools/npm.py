"""Installs npm packages into the cache, with the exact versions and hashes of a folder in
requirements/."""

from __future__ import annotations

import shutil
from pathlib import Path

from tools import building, servers

LOCKS = ("package.json", "package-lock.json")


def folder(name: str, *files: Path) -> Path:
    """Return the folder of the packages in requirements/NAME, installed or not. ``files`` lie
    beside them."""
    contents = [file.read_bytes() for file in (*_locks(name), *files)]
    return building.cache() / name / building.digest(*contents)


def install(name: str, *files: Path, scripts: bool, progress: building.Progress = print) -> None:
    """Install the packages unless they are there. ``scripts``: run theirs. Raises
    ``BuildError``."""

    def make(work: Path, log: Path) -> Path:
        npm = shutil.which("npm")
        if npm is None:
            raise building.BuildError("npm is not installed")
        place = work / "packages"
        place.mkdir()
        for file in (*_locks(name), *files):
            shutil.copy(file, place)
        flags = ["--no-audit", "--no-fund", *([] if scripts else ["--ignore-scripts"])]
        building.run([npm, "ci", "--prefix", place, *flags], log, name)
        return place

    building.once(folder(name, *files), name, make, progress, needs_compiler=False)


def _locks(name: str) -> tuple[Path, ...]:
    return tuple(servers.ROOT / "requirements" / name / lock for lock in LOCKS)
