"""Builds from published sources, once, into the user's cache outside the checkout.

The name of a build's folder contains what it was made from: another version, flag or recipe gets
another folder, and an existing folder is a finished build.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIP = ("-m", "pip", "--disable-pip-version-check")
_SAY_EVERY = 10  # per cent, if the output is not a terminal

Progress = Callable[[str], None]


class BuildError(RuntimeError):
    """A build failed; the message says what is missing or where the log is."""


def cache() -> Path:
    """Return the cache folder. Everything in it can be built again."""
    if own := os.environ.get("SLOTPROXY_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "slotproxy"


def once(
    folder: Path,
    name: str,
    make: Callable[[Path, Path], Path],
    progress: Progress,
    *,
    needs_compiler: bool = True,
) -> None:
    """Make ``folder`` unless it exists: ``make(work, log)`` returns a folder within ``work`` that
    is renamed to it. All or nothing; a second process waits and uses the first one's result. Raises
    ``BuildError``."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock"), progress):
        if folder.is_dir():
            return
        if needs_compiler:
            compiler()
        log = folder.with_name(f"{folder.name}.log")
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            make(work, log).rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        log.unlink(missing_ok=True)
        progress(f"{name}: ready")


def digest(*made_of: object) -> str:
    """Return a short digest that distinguishes builds in folder names."""
    return hashlib.sha256(repr(made_of).encode()).hexdigest()[:10]


def counting(name: str, progress: Progress) -> Progress:
    """Return a callback that reads the output of ninja ([12/212]) or make ([ 45%]) and reports
    progress."""
    shown = -1

    def line(text: str) -> None:
        nonlocal shown
        steps = re.search(r"\[(\d+)/(\d+)\]|\[ *(\d+)%\]", text)
        if steps is None:
            return
        done, of, percent = (int(group) if group else 0 for group in steps.groups())
        percent = 100 * done // of if of else percent
        if percent > shown:
            shown = percent
            progress(f"{name}: building {percent}%")

    return line


def compiler() -> None:
    """Raises ``BuildError`` if there is no compiler."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++", "cl"]
    if not any(shutil.which(name) for name in names):
        raise BuildError(
            f"no C++ compiler found (looked for {', '.join(names)}). Install one, for example "
            "with `apt install build-essential` or `xcode-select --install`, or use a server that "
            "is already running: make run LLAMA_API=http://host:port"
        )


def run(command: Sequence[str | Path], log: Path, what: str, line: Progress | None = None) -> None:
    """Run a command; its output goes to ``log``, and line by line to ``line``."""
    tail: list[str] = []
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        assert process.stdout is not None
        try:
            for text in process.stdout:
                file.write(text)
                tail = [*tail[-19:], text]
                if line:
                    line(text)
        except BaseException:
            process.kill()
            raise
        finally:
            process.stdout.close()
            code = process.wait()
    if code:
        raise BuildError(f"{what} failed; the whole log is {log}\n{''.join(tail).rstrip()}")


def executable(name: str) -> str:
    return f"{name}.exe" if os.name == "nt" else name


def cmake(log: Path, progress: Progress) -> tuple[Path, list[str]]:
    """Return cmake and its generator flags: installed on the machine, or else from Python
    packages."""
    cmake, ninja = shutil.which("cmake"), shutil.which("ninja")
    if cmake and (ninja or shutil.which("make") or os.name == "nt"):
        return Path(cmake), ["-G", "Ninja"] if ninja else []
    locked = ROOT / "requirements" / "build.txt"
    home = cache() / "tools" / hashlib.sha256(locked.read_bytes()).hexdigest()[:10]
    bin_ = home / ("Scripts" if os.name == "nt" else "bin")
    if not (bin_ / executable("ninja")).exists():
        progress("cmake or ninja is missing here: installing their Python packages")
        venv.create(home, with_pip=True, clear=True)
        install = (*PIP, "install", "--quiet", "--require-hashes", "-r", str(locked))
        run([bin_ / executable("python"), *install], log, "installing cmake and ninja")
    ninja_path = bin_ / executable("ninja")
    return bin_ / executable("cmake"), ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja_path}"]


@contextlib.contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of a build. The system releases it when the process ends, in whatever way.
    Windows has no such lock in the standard library; there, the first rename wins."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process is building it: waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def terminal() -> Progress:
    """Show progress on a terminal as one updated line, in a log as occasional lines."""
    if not sys.stderr.isatty():
        last: list[str] = []

        def log(text: str) -> None:
            percent = re.search(r"(\d+)%$", text)
            if percent:
                step = f"{int(percent[1]) // _SAY_EVERY}"
                if last == [step]:
                    return
                last[:] = [step]
            print(text, file=sys.stderr, flush=True)

        return log

    counting = False

    def show(text: str) -> None:
        nonlocal counting
        is_count = text.endswith("%")
        if counting:
            print("\r" if is_count else "\n", end="", file=sys.stderr)
        print(text, end="" if is_count else "\n", file=sys.stderr, flush=True)
        counting = is_count

    return show
