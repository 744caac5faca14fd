"""Builds llama-cpp-python with its own server, which speaks OpenAI's API, from its source.

It is made once, in about five minutes on two cores, in a virtual environment of its own in the
cache (see ``tools.building``): its server needs FastAPI and uvicorn, which nothing here uses.
``find`` prints the path of its Python, ``build`` builds it:
``python -m tools.llama_cpp_python build|find``. The server is then
``PYTHON -m llama_cpp.server --model FILE --port N``.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import venv
from pathlib import Path

from tools.building import (
    PIP,
    BuildError,
    Progress,
    cache,
    counting,
    digest,
    executable,
    once,
    run,
    terminal,
)
from tools.servers import RECIPES

NAME = "llama-cpp-python"
VERSION, SHA256 = RECIPES["llama-2026"].version, RECIPES["llama-2026"].sha256
_STEPS = "1"  # increase when the build steps change
_FLAGS = "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF -DLLAMA_CURL=OFF"


def _folder() -> Path:
    """Return the folder of the environment for this Python, built or not."""
    system = (sys.implementation.cache_tag, platform.system(), platform.machine())
    made_of = digest(_STEPS, VERSION, SHA256, _FLAGS, *system)
    return cache() / "servers" / f"{NAME}-{VERSION}-{made_of}"


def _python(folder: Path) -> Path:
    return folder / ("Scripts" if os.name == "nt" else "bin") / executable("python")


def find() -> Path | None:
    """Return the Python that has the server, or None."""
    python = _python(_folder())
    return python if python.is_file() else None


def build(progress: Progress = print) -> Path:
    """Return the Python that has the server; build it if it is not in the cache. Raises
    ``BuildError``."""
    if python := find():
        return python
    once(_folder(), NAME, lambda work, log: _make(work, log, progress), progress)
    return _python(_folder())


def _make(work: Path, log: Path, progress: Progress) -> Path:
    """Build the environment and return its folder. It may be renamed: nothing in it is started by
    its own path but its Python."""
    done, wheels = work / "done", work / "wheels"
    venv.create(done, with_pip=True)
    python = _python(done)
    wanted = work / "wanted.txt"
    wanted.write_text(f"{NAME}=={VERSION} --hash=sha256:{SHA256}\n")
    source = ["--no-binary", NAME, "--no-cache-dir", "--require-hashes", "-r", str(wanted)]
    options = f"--config-settings=cmake.args={_FLAGS.replace(' ', ';')}"
    progress(f"{NAME}: fetching the sources of {VERSION}, then building: some minutes, once")
    command: list[str | Path] = [
        python,
        *PIP,
        "wheel",
        "--verbose",
        "--no-deps",
        options,
        *source,
        "-w",
        wheels,
    ]
    run(command, log, f"building {NAME}", counting(NAME, progress))
    (wheel,) = wheels.glob("*.whl")
    run([python, *PIP, "install", "--quiet", f"{wheel}[server]"], log, f"installing {NAME}")
    return done


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.llama_cpp_python", description=NAME)
    parser.add_argument("do", choices=["build", "find"])
    args = parser.parse_args(argv)
    try:
        path = build(terminal()) if args.do == "build" else find()
    except BuildError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 1
    if path is None:
        print(f"{NAME} is not built: python -m tools.llama_cpp_python build", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
