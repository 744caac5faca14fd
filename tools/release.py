"""``make release``: completes what ``make dist`` and ``make zipapp`` have built in dist/.

It adds the container image, if docker, podman or buildah can build one, the notes of the version,
cut from CHANGELOG.md, and SHA256SUMS. Nothing is uploaded.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from proxy import __version__

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"


class ReleaseError(Exception):
    """The release cannot be made. The message is one line for the developer."""


def notes(changelog: str, version: str) -> str:
    """The part of the changelog about a version. Raises ReleaseError if there is none."""
    pattern = rf"^## {re.escape(version)}(?: [^\n]*)?\n(.*?)(?=^## |\Z)"
    section = re.search(pattern, changelog, re.M | re.S)
    if section is None or not section[1].strip():
        raise ReleaseError(f"CHANGELOG.md says nothing about {version}: add a section for it")
    return f"# slotproxy {version}\n\n{section[1].strip()}\n"


def checksums(files: Iterable[Path]) -> str:
    """The lines of SHA256SUMS, which ``sha256sum --check`` reads in their folder."""
    lines = []
    for file in sorted(files):
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        lines.append(f"{digest}  {file.name}\n")
    return "".join(lines)


def engine() -> str:
    """The first container engine that runs here, "" for none."""
    for name in ("docker", "podman", "buildah"):
        if shutil.which(name):
            done = subprocess.run([name, "info"], capture_output=True, check=False)
            if done.returncode == 0:
                return name
    return ""


def image(name: str, version: str) -> str:
    """Build the image with this engine, and save it in dist/. Returns its digest."""
    tag, archive = f"slotproxy:{version}", DIST / f"slotproxy-{version}-image.tar"
    archive.unlink(missing_ok=True)
    build = ["bud" if name == "buildah" else "build", "-f", "deploy/Containerfile", "-t", tag, "."]
    subprocess.run([name, *build], cwd=ROOT, check=True)
    if name == "buildah":
        save = ["push", tag, f"docker-archive:{archive}:{tag}"]
        digest = ["inspect", "--type", "image", "--format", "{{.FromImageID}}", tag]
    else:
        save = ["save", "-o", str(archive), tag]
        digest = ["image", "inspect", "--format", "{{.Id}}", tag]
    subprocess.run([name, *save], check=True)
    done = subprocess.run([name, *digest], check=True, capture_output=True, text=True)
    return f"sha256:{done.stdout.strip().removeprefix('sha256:')}"


def main() -> int:
    try:
        text = notes((ROOT / "CHANGELOG.md").read_text("utf-8"), __version__)
        builder = engine()
        if builder:
            digest = image(builder, __version__)
            text += f"\nContainer image: `slotproxy@{digest}`\n"
        else:
            print("no container image: neither docker, podman nor buildah runs here")
    except (ReleaseError, subprocess.CalledProcessError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    (DIST / "NOTES.md").write_text(text, encoding="utf-8")
    files = [*DIST.glob("slotproxy-*"), DIST / "slotproxy.pyz"]
    (DIST / "SHA256SUMS").write_text(checksums(files), encoding="utf-8")
    for file in sorted([*files, DIST / "NOTES.md", DIST / "SHA256SUMS"]):
        print(f"  {file.stat().st_size / 1e6:8.2f} MB  dist/{file.name}")
    if "unreleased" in (ROOT / "CHANGELOG.md").read_text("utf-8").partition("\n### ")[0]:
        print(f"CHANGELOG.md still says that {__version__} is unreleased")
    return 0


if __name__ == "__main__":
    sys.exit(main())
