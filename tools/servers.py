"""Builds real server.cpp servers from published sources, to run and to test against.

- ``llama-2023``: llama.cpp's ``server`` of November 2023 (about a minute on two cores)
- ``llama-2026``: today's ``llama-server`` (about ten minutes), with llama.cpp's chat templates and
  the cases of its own test of chat parsers beside it (see ``tools.chat_cases``)

They are built from the Python package llama-cpp-python, which contains the llama.cpp sources of its
time. Archives are pinned by their sha256. No package index has ``powerinfer``, PowerInfer's
``server``: it is the program that ``POWERINFER_SERVER`` names.

A binary is built once (see ``tools.building``). ``find`` prints its path, ``build`` builds it. On
the command line: ``python -m tools.servers build|find NAME…``.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import platform
import shutil
import sys
import tarfile
from pathlib import Path

from tools import building, chat_cases
from tools.building import PIP, Progress, cmake, counting, digest, executable, run
from tools.building import ROOT as ROOT  # re-exported, like the next three
from tools.building import BuildError as BuildError
from tools.building import cache as cache
from tools.building import terminal as terminal

_STEPS = "1"  # increase when the build steps change, to rebuild the cached binaries


GIVEN = {"powerinfer": "POWERINFER_SERVER"}
"""Servers that are not built here, and the variables that name their programs."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to build a server: source archive (with ``sha256``), cmake target and flags.

    ``version`` is that of llama-cpp-python.
    """

    name: str
    version: str
    sha256: str
    target: str
    flags: tuple[str, ...]
    chat_cases: str = ""
    """Digest of how the chat cases are made; "" for a source without them."""

    def folder(self) -> str:
        """Name of its folder in the cache."""
        system = (platform.system(), platform.machine())
        made_of = (_STEPS, *dataclasses.astuple(self), *system)
        return f"{self.name}-{self.version}-{digest(*made_of)}"


# NATIVE=OFF: the cache may be in a home directory shared by several machines. Common instruction
# sets (AVX2 and others, on x86) stay enabled.
_COMMON = ("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF")
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="llama-2023",
            version="0.2.20",
            sha256="a0ada1cb800ba4da60ea6ac4f7264b687a35412374e5af2c92e5b22852cdbafb",
            target="server",
            flags=(*_COMMON, "-DLLAMA_NATIVE=OFF", "-DLLAMA_BUILD_TESTS=OFF"),
        ),
        Recipe(
            name="llama-2026",
            version="0.3.36",
            sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
            target="llama-server",
            flags=(
                *_COMMON,
                "-DGGML_NATIVE=OFF",
                "-DLLAMA_CURL=OFF",
                "-DLLAMA_OPENSSL=OFF",
                "-DLLAMA_BUILD_UI=OFF",
                "-DLLAMA_BUILD_TESTS=ON",  # only the target of the chat cases is built
            ),
            chat_cases=chat_cases.VERSION,
        ),
    )
}


def _binary(recipe: Recipe) -> Path:
    return cache() / "servers" / recipe.folder() / executable(recipe.target)


def find(name: str) -> Path | None:
    """Return the server of that name, or None if it is not built or not given. Raises
    ``BuildError`` if the variable of a given one names no program."""
    if name not in GIVEN:
        binary = _binary(RECIPES[name])
        return binary if binary.is_file() else None
    value = os.environ.get(GIVEN[name])
    if not value:
        return None
    path = Path(value).expanduser().resolve()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise BuildError(f"{GIVEN[name]} is {value!r}, which is no program: set it to the server")
    return path


def absent(name: str) -> str:
    """Why `find` has returned None, and what to do."""
    if name in GIVEN:
        return f"{GIVEN[name]} is not set: it names the program of the server {name}"
    return f"{name} is not built: python -m tools.servers build {name}"


def build(name: str, progress: Progress = print) -> Path:
    """Return the server of that name; build it if it is not in the cache. Raises ``BuildError``."""
    if binary := find(name):
        return binary
    if name in GIVEN:
        raise BuildError(absent(name))
    recipe = RECIPES[name]

    def make(work: Path, log: Path) -> Path:
        progress(f"{name}: fetching llama-cpp-python {recipe.version}")
        source = _unpack(fetch(recipe, work, log), work)
        made = _compile(recipe, source, work, log, progress)
        done = work / "done"
        done.mkdir()
        shutil.copy2(made, done / made.name)
        if recipe.chat_cases:
            chat_cases.write(source, work / "build", done, log)
        return done

    building.once(_binary(recipe).parent, name, make, progress)
    return _binary(recipe)


def fetch(recipe: Recipe, work: Path, log: Path) -> Path:
    """Download the source archive with pip, which knows the user's index, proxy and
    certificates."""
    wanted = work / "wanted.txt"
    wanted.write_text(f"llama-cpp-python=={recipe.version} --hash=sha256:{recipe.sha256}\n")
    pip = [sys.executable, *PIP, "download", "--quiet"]
    # --no-binary for this package alone: pip asks its build system for metadata, and the build
    # system should not be compiled, too.
    only_source = ["--no-deps", "--no-binary", "llama-cpp-python", "--require-hashes"]
    run([*pip, *only_source, "-r", str(wanted), "-d", str(work)], log, "fetching the sources")
    archives = list(work.glob("*.tar.gz"))
    if len(archives) != 1:
        raise BuildError(f"pip fetched no source archive of llama-cpp-python {recipe.version}")
    _check(archives[0], recipe.sha256)
    return archives[0]


def _check(archive: Path, sha256: str) -> None:
    with archive.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if checksum != sha256:
        raise BuildError(
            f"{archive.name} is not the expected file: its sha256 is {checksum}, not {sha256}"
        )


def _unpack(archive: Path, work: Path) -> Path:
    """Unpack llama.cpp from the archive and return its folder."""
    with tarfile.open(archive) as tar:
        wanted = [entry for entry in tar.getmembers() if "/vendor/llama.cpp/" in f"{entry.name}/"]
        tar.extractall(work / "source", members=wanted, filter="data")
    archive.unlink()
    (source,) = (work / "source").glob("*/vendor/llama.cpp")
    return source


def _compile(recipe: Recipe, source: Path, work: Path, log: Path, progress: Progress) -> Path:
    tool, generator = cmake(log, progress)
    tree = work / "build"
    targets = [recipe.target]
    if recipe.chat_cases:
        chat_cases.patch(source)
        targets.append(chat_cases.TARGET)
    progress(f"{recipe.name}: configuring")
    run([tool, "-S", source, "-B", tree, *[*generator, *recipe.flags]], log, "cmake")

    jobs = str(os.cpu_count() or 1)
    what = ("--config", "Release", "--target", *targets, "-j", jobs)
    run(
        [tool, "--build", tree, *what],
        log,
        f"building {recipe.name}",
        counting(recipe.name, progress),
    )
    for made in tree.rglob(executable(recipe.target)):
        if made.is_file():
            return made
    raise BuildError(f"building {recipe.name} left no {recipe.target}; the log is {log}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.servers", description="Model servers.")
    parser.add_argument("do", choices=["build", "find"])
    parser.add_argument("names", nargs="+", choices=sorted({*RECIPES, *GIVEN}), metavar="NAME")
    args = parser.parse_args(argv)
    for name in args.names:
        try:
            path = build(name, terminal()) if args.do == "build" else find(name)
        except BuildError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        if path is None:
            print(absent(name), file=sys.stderr)
            return 1
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
