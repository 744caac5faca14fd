"""Builds the wheel of chatglm_cpp for this machine and Python from its published source.

Only a source package is published. Its build files are older than cmake 4, which accepts them with
CMAKE_POLICY_VERSION_MINIMUM. It is built with ninja, since with make it would start all compilers
at the same time; and with OpenMP if the compiler supports it, since only then the number of threads
can be set (OMP_NUM_THREADS).

The wheel is built once, in three to five minutes on two cores (see ``tools.building``). ``find``
prints its path, ``build`` builds it, ``install`` installs it into the Python that runs this:
``python -m tools.chatglm build|find|install``
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tools.building import (
    PIP,
    BuildError,
    Progress,
    cache,
    cmake,
    counting,
    digest,
    once,
    run,
    terminal,
)

NAME = "chatglm-cpp"
VERSION = "0.4.2"
SHA256 = "8c70215eafdcd60895d1b72db517f584ba2db21d5a5f09a2396ba49bd65104d0"
_STEPS = "1"  # increase when the build steps change
_OPENMP = {"CFLAGS": "-fopenmp -DGGML_USE_OPENMP", "CXXFLAGS": "-fopenmp", "LDFLAGS": "-fopenmp"}


def _folder() -> Path:
    """Return the folder of the wheel for this Python, built or not."""
    system = (sys.implementation.cache_tag, platform.system(), platform.machine())
    return cache() / "wheels" / f"{NAME}-{VERSION}-{digest(_STEPS, VERSION, SHA256, *system)}"


def find() -> Path | None:
    """Return the built wheel, or None."""
    return next(_folder().glob("*.whl"), None)


def build(progress: Progress = print) -> Path:
    """Return the wheel; build it if it is not in the cache. Raises ``BuildError``."""
    if wheel := find():
        return wheel
    once(_folder(), NAME, lambda work, log: _make(work, log, progress), progress)
    wheel = find()
    assert wheel is not None, "the build left no wheel"
    return wheel


def _make(work: Path, log: Path, progress: Progress) -> Path:
    """Build the wheel and return its folder."""
    wanted = work / "wanted.txt"
    wanted.write_text(f"{NAME}=={VERSION} --hash=sha256:{SHA256}\n")
    tool, generator = cmake(log, progress)
    environment = {"CMAKE_POLICY_VERSION_MINIMUM": "3.5"}
    if "Ninja" in generator:
        environment["CMAKE_GENERATOR"] = "Ninja"
    if _knows_openmp(work):
        environment |= _OPENMP
    environment["PATH"] = os.pathsep.join([str(tool.parent), os.environ.get("PATH", "")])
    pip = [sys.executable, *PIP, "wheel", "--verbose", "--no-deps", "--no-build-isolation"]
    source = ["--no-binary", NAME, "--no-cache-dir", "--require-hashes", "-r", str(wanted)]
    progress(f"{NAME}: fetching the sources of {VERSION}, then building: some minutes, once")
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        run([*pip, *source, "-w", work / "done"], log, f"building {NAME}", counting(NAME, progress))
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return work / "done"


def _knows_openmp(work: Path) -> bool:
    """Whether the C compiler supports OpenMP; Apple's does not."""
    source = work / "try.c"
    source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() == 0; }\n")
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), "")
    if not compiler:
        return False
    command = [*compiler.split(), "-fopenmp", str(source), "-o", str(work / "try")]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def install(progress: Progress = print) -> None:
    """Install the wheel into this Python, unless this version is installed. Raises
    ``BuildError``."""
    try:
        if importlib.metadata.version(NAME) == VERSION:
            return
    except importlib.metadata.PackageNotFoundError:
        pass
    wheel = build(progress)
    pip = [sys.executable, *PIP, "install", "--quiet", "--no-deps", "--no-index"]
    run([*pip, wheel], _folder().with_name("install.log"), f"installing {wheel.name}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.chatglm", description="chatglm_cpp.")
    parser.add_argument("do", choices=["build", "find", "install"])
    args = parser.parse_args(argv)
    try:
        if args.do == "install":
            install(terminal())
            return 0
        path = build(terminal()) if args.do == "build" else find()
    except BuildError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 1
    if path is None:
        print(f"{NAME} is not built: python -m tools.chatglm build", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
