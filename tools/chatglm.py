"""The wheel of chatglm_cpp for this machine and Python, built from its published source.

There is only a source package. Its build files are from before cmake 4, which takes them when
CMAKE_POLICY_VERSION_MINIMUM says so; with make it would start all its compilers at once, so ninja
builds it; and where the compiler knows OpenMP it is built with that, because only then the number
of threads can be set (OMP_NUM_THREADS).

The wheel is built once, in three to five minutes on two cores (see ``tools.building``). ``find``
looks, ``build`` makes, ``install`` puts it into the Python that runs this:
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
_STEPS = "1"  # raise it when the way of building changes
_OPENMP = {"CFLAGS": "-fopenmp -DGGML_USE_OPENMP", "CXXFLAGS": "-fopenmp", "LDFLAGS": "-fopenmp"}


def _folder() -> Path:
    """Where the wheel for this Python lies, built or not."""
    system = (sys.implementation.cache_tag, platform.system(), platform.machine())
    return cache() / "wheels" / f"{NAME}-{VERSION}-{digest(_STEPS, VERSION, SHA256, *system)}"


def find() -> Path | None:
    """The built wheel, or None."""
    return next(_folder().glob("*.whl"), None)


def build(progress: Progress = print) -> Path:
    """The wheel, built if it is not in the cache. Raises ``BuildError``."""
    if found := find():
        return found
    once(_folder(), NAME, lambda work, log: _make(work, log, progress), progress)
    wheel = find()
    assert wheel is not None, "the build left no wheel"
    return wheel


def _make(work: Path, log: Path, progress: Progress) -> Path:
    """The folder of the finished wheel."""
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
    """Whether the C compiler does: Apple's does not."""
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
    """Put the wheel into this Python, unless that version is there. Raises ``BuildError``."""
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
