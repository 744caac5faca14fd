"""``slotproxy pull``: downloads a model in the terminal."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ..config import Settings
from ..downloads.child import Job, Said
from ..downloads.choice import HubModel, reference
from ..downloads.download import Download, is_installed, room
from ..errors import BadRequest
from ..hosting.need import Cards
from ..runtime.installation import install

LOOK = 0.5  # seconds between two looks at the progress


def pull(settings: Settings, text: str, *, only_list: bool = False) -> str:
    """Download a model, or list those of its repository. Returns what is there then. Raises
    GatewayError."""
    meant = reference(text)
    fits = room(settings.memory_bytes, Cards(settings.gpu_memory_bytes).totals)
    if not (only_list or settings.models_dir):
        raise BadRequest("name the folder of models: --models-dir DIR")
    folder = "" if only_list else str(Path(settings.models_dir).absolute())
    if not is_installed():
        raise BadRequest(f"downloads require the extra pull: {install('pull')}")
    download = Download(Job(meant, folder, fits))
    try:
        download.listed.wait()
        if download.said.models:
            print("\n".join(table(download.said, fits)), flush=True)
        if not only_list:
            _show_progress(download)
        download.wait()
    except KeyboardInterrupt:
        download.cancel()
        raise BadRequest("interrupted: the same command continues the download") from None
    if only_list:
        return f"{len(download.said.models)} models"
    return (
        f"{download.said.chosen} is in {folder}: slotproxy serves it after a restart, a reload"
        " (kill -HUP), or at once with --watch-config"
    )


def table(said: Said, fits: int) -> list[str]:
    """The models of a repository: quantization, size, and whether it fits."""
    context = f"made for {said.context} tokens of context" if said.context else ""
    return [*(_row(model, said.chosen, fits) for model in said.models), *filter(None, [context])]


def _row(model: HubModel, chosen: str, fits: int) -> str:
    mark = "*" if model.name == chosen else " "
    why = "does not fit --memory or the cards" if fits and model.size > fits else ""
    size = f"{model.size / 1e9:.1f} GB"
    return f"{mark} {model.quantization:<12} {size:>9}  {model.name}  {why}".rstrip()


def _show_progress(download: Download) -> None:
    began, before = time.monotonic(), download.bytes
    while sys.stdout.isatty() and not download.ended.wait(LOOK):
        size, present = max(1, download.said.size), download.bytes
        speed = (present - before) / (time.monotonic() - began)
        line = f"{100 * present // size:3} %  {present / 1e9:.2f} of {size / 1e9:.2f} GB"
        line = "checking" if download.checking else f"{line}  {speed / 1e6:.1f} MB/s"
        print(f"\r{line:<60}", end="", flush=True)
    if sys.stdout.isatty():
        print()
