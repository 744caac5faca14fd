"""What ``slotproxy init`` finds on this machine. Servers are asked for small documents only."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..backends.detect import identify, listens
from ..backends.http import ConnectionPool
from ..backends.probe import document
from ..config.models import MAX_NAME, of_files, of_folder
from ..config.validators import in_bytes
from ..errors import GatewayError
from ..runtime import installation

# The usual ports of llama.cpp and PowerInfer, Ollama, LM Studio and text-generation-webui.
PORTS = (8080, 9931, 11434, 1234, 5000)
PATIENCE = 2.0  # seconds for each answer
DEEP = 5  # levels below a usual folder; Hugging Face's cache has four
ENOUGH = 200  # models of a folder, after which no further one is looked into
SHOWN = 100  # characters of a name that a server reports


class Server(Struct, frozen=True):
    url: str
    kind: str  # llamacpp, openai (OpenAI's API), slotproxy, or "" for another program
    title: str
    models: tuple[str, ...] = ()  # the first names that it reports

    @property
    def described(self) -> str:
        names = ", ".join(self.models[:3]) + (" …" if len(self.models) > 3 else "")
        return f"{self.title} ({names})" if names else self.title


class Files(Struct, frozen=True):
    """The first GGUF models below a usual folder."""

    folder: Path
    models: Mapping[str, tuple[str, ...]]  # the flags of llama-server, by name
    flat: bool  # --models-dir takes the folder, and finds all of them


class Card(Struct, frozen=True):
    """A graphics card, and the program that lists it."""

    name: str
    memory: int
    program: str


class Found(Struct, frozen=True):
    """`llama_server` is a path, "" for none, `memory` that of the machine, 0 if unknown."""

    servers: tuple[Server, ...]
    files: tuple[Files, ...]
    llama_server: str
    memory: int
    cards: tuple[Card, ...] = ()


def look(environ: Mapping[str, str], home: Path, ports: Sequence[int] = PORTS) -> Found:
    with ThreadPoolExecutor(len(ports)) as pool:
        servers = tuple(filter(None, pool.map(lambda p: server_at(f"http://127.0.0.1:{p}"), ports)))
    folders = (_files(folder) for folder in _usual(environ, home))
    files = tuple(files for files in folders if files.models)
    return Found(servers, files, _llama_server(environ), _memory(), _cards(environ))


def remedy(environ: Mapping[str, str], home: Path) -> str:
    """What to do with the GGUF files that are there where nothing is configured, "" without any."""
    own, program = installation.bundled().parent.resolve(), _llama_server(environ)
    others = (_files(folder) for folder in _usual(environ, home) if folder.resolve() != own)
    files = max(others, key=lambda files: len(files.models), default=None)
    if files is None or not files.models:
        return ""
    to_serve = f"to serve the GGUF files in {files.folder}"
    if not files.flat:
        first = "" if program else "put llama-server on the PATH, then "
        return f"{to_serve}, {first}run `slotproxy init`, which lists them"
    path = "" if program else ' --llama-server "/path/to/llama-server -c 4096"'
    return f"{to_serve}, set --models-dir {shlex.quote(str(files.folder))}{path}"


def _llama_server(environ: Mapping[str, str]) -> str:
    program = shutil.which("llama-server", path=environ.get("PATH")) or ""
    return program if _can_be_written(program) else ""


def server_at(url: str) -> Server | None:
    """What answers at an address; None if nothing does."""
    if not listens(url):
        return None
    pool = ConnectionPool(url, timeout=PATIENCE, connect_timeout=PATIENCE, idle=0)

    def get(path: str) -> Mapping[str, Any]:
        with suppress(GatewayError):
            return document(pool, path, seconds=PATIENCE)[1]
        return {}

    if get("/livez").get("status") == "ok":
        return Server(url, "slotproxy", "another slotproxy")
    try:
        seen = identify(pool)
    except GatewayError as error:
        return Server(url, "", f"no model server that can be used: {error}")
    models = tuple(name[:SHOWN] for name in seen.models if name.isprintable())[:ENOUGH]
    if seen.kind == "openai":
        is_ollama = "version" in get("/api/version")
        title = "Ollama" if is_ollama else "a server with OpenAI's API"
        return Server(url, "openai", title, models)
    if models:
        names = tuple(Path(name).name.removesuffix(".gguf") for name in models)
        title = "whisper.cpp" if seen.kind == "whisper" else "llama-server"
        return Server(url, "llamacpp", title, names)
    if seen.shown or "n_ctx" in get("/model.json"):
        return Server(url, "llamacpp", "a server of llama.cpp or PowerInfer")
    return Server(url, "", "a program that is no model server")


def _usual(environ: Mapping[str, str], home: Path) -> Iterator[Path]:
    """The folders where models usually are, each once, without those that do not exist."""
    cache = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    hub = Path(environ.get("HF_HOME") or cache / "huggingface") / "hub"
    llama = Path(environ.get("LLAMA_CACHE") or cache / "llama.cpp")
    plain = (Path("models"), home / "models", Path("/models"))
    studio = (home / ".lmstudio" / "models", cache / "lm-studio" / "models")
    candidates = (*plain, llama, hub, *studio)
    existing = (path.absolute() for path in candidates if path.is_dir())
    yield from {path.resolve(): path for path in existing}.values()


def _files(folder: Path) -> Files:
    models: dict[str, tuple[str, ...]] = {}
    for path, inner, _ in os.walk(folder):
        depth = len(Path(path).relative_to(folder).parts)
        visible = (name for name in inner if not name.startswith("."))
        inner[:] = sorted(visible) if depth < DEEP and len(models) < ENOUGH else []
        for name, flags in of_files(Path(path)):
            skipped = name in models or len(name) > MAX_NAME
            if not skipped and _can_be_written(name, *flags) and _is_gguf(flags):
                models[name] = flags
    try:  # --models-dir refuses a folder with an odd name in it
        flat = len(of_folder(str(folder), "llama-server", 0.0)) == len(models)
    except ValueError:
        flat = False
    return Files(folder, models, flat)


def _can_be_written(*texts: str) -> bool:
    """Whether a settings file may have these: as text, and without macros."""
    return all(text.isprintable() and "${" not in text for text in texts)


def _is_gguf(flags: Sequence[str]) -> bool:
    """Whether the model's first file has GGUF's magic, and weights behind it."""
    with suppress(OSError), Path(flags[1]).open("rb") as file:
        return file.read(4) == b"GGUF" and os.fstat(file.fileno()).st_size > 1 << 16
    return False


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return 0


def _cards(environ: Mapping[str, str]) -> tuple[Card, ...]:
    """The graphics cards that nvidia-smi, else rocm-smi lists; none without these programs."""
    rows: list[tuple[str, str, str]] = []
    nvidia = ("nvidia-smi", "--query-gpu=memory.total,name", "--format=csv,noheader,nounits")
    for row in _printed(environ, *nvidia).splitlines():
        size, _, name = row.partition(", ")
        rows.append((f"{size.strip()}MiB", name, "nvidia-smi"))
    if not rows:
        amd = ("rocm-smi", "--showmeminfo", "vram", "--showproductname", "--json")
        with suppress(ValueError, AttributeError):
            for card in json.loads(_printed(environ, *amd)).values():
                size = f"{card.get('VRAM Total Memory (B)')}B"
                rows.append((size, card.get("Card Series") or "AMD graphics card", "rocm-smi"))
    cards = []
    for size, name, program in rows:
        with suppress(ValueError):  # a card without memory of its own
            cards.append(Card(name[:SHOWN], in_bytes(size), program))
    return tuple(card for card in cards if _can_be_written(card.name))


def _printed(environ: Mapping[str, str], program: str, *flags: str) -> str:
    """What a program prints; "" if there is none, or it fails."""
    with suppress(OSError, subprocess.SubprocessError, UnicodeDecodeError):
        path = shutil.which(program, path=environ.get("PATH"))
        command = [path or "", *flags]
        return subprocess.run(command, capture_output=True, timeout=10, check=True).stdout.decode()
    return ""
