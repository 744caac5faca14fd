"""The wheel and the source archive: complete, well described, and installable into an empty
environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import proxy
from proxy.runtime import installation
from tools.processes import Child, ask, held_port
from tools.servers import ROOT

SOURCES = (
    *("proxy", "models", "templates", "docs", "deploy", "requirements"),
    *("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", ".dockerignore"),
    *("LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"),
)


def _files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_checkout_reads_its_own_templates() -> None:
    assert installation.templates() == ROOT / "templates"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, built from the source archive, and that archive."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"  # a copy: building leaves folders behind
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(source)], check=True, capture_output=True, timeout=240)
    (wheel,) = folder.glob("*.whl")
    (archive,) = folder.glob("*.tar.gz")
    return wheel, archive


@pytest.mark.slow
def test_wheel_contains_code_templates_and_static_files(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        archive.extractall(tmp_path)
    sources = {f"proxy/{name}" for name in _files(ROOT / "proxy") if not name.endswith(".md")}
    assert sources <= _files(tmp_path)
    assert _files(tmp_path / "proxy" / "templates") == _files(ROOT / "templates")
    assert not (tmp_path / "tests").exists()
    assert not (tmp_path / "tools").exists()


@pytest.mark.slow
def test_descriptions_of_wheel_and_archive_pass_the_index_checks(built: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *map(str, built)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count("PASSED") == 2

    with tarfile.open(built[1]) as archive:
        inside = f"slotproxy-{proxy.__version__}"
        # The pages of docs/deploy can be followed from the archive alone.
        assert f"{inside}/deploy/systemd/slotproxy.service" in archive.getnames()
        assert f"{inside}/requirements/server.txt" in archive.getnames()
        info = archive.extractfile(f"{inside}/PKG-INFO")
        assert info is not None
        described = HeaderParser().parsestr(info.read().decode())
    assert described["Version"] == proxy.__version__
    assert described["License"] == "MIT"
    assert len(described.get_all("Project-URL", [])) >= 3
    assert "Typing :: Typed" in described.get_all("Classifier", [])


@pytest.mark.slow
def test_wheel_serves_in_an_environment_of_its_own(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    """The dependencies are those of the tests' environment, and the package is not."""
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / "bin"
    pip = [str(scripts / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    offline = ["--quiet", "--no-deps", "--no-index", str(built[0])]
    subprocess.run([*pip, *offline], check=True, timeout=120)
    env = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}

    def printed(*words: str) -> str:
        command = [str(scripts / "python"), *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.strip()

    assert printed(str(scripts / "slotproxy"), "--version") == f"slotproxy {proxy.__version__}"
    code = "import proxy.runtime.installation as r; print(r.templates())"
    assert printed("-c", code).startswith(str(tmp_path / "venv"))
    port = held_port()
    where = ["--llama-api", "http://127.0.0.1:9", "--data", str(tmp_path / "data")]
    command: list[str | Path] = [scripts / "python", scripts / "slotproxy", *where]
    command += ["--port", str(port)]
    gateway = Child(command, tmp_path / "gateway.log", env)
    gateway.launch()
    try:
        end = time.monotonic() + 60
        while ask(f"http://127.0.0.1:{port}/livez")[0] != 200:
            assert gateway.alive and time.monotonic() < end, gateway.log
            time.sleep(0.05)
        assert ask(f"http://127.0.0.1:{port}/")[0] == 200
    finally:
        gateway.kill()
