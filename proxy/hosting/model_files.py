"""The command of a model: its flags, the GGUF files that it names, and a digest of all that."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from msgspec import Struct

from ..backends import gguf
from ..backends.gguf import Value
from ..backends.probe import as_adapters
from ..config import ModelConfig
from ..core.adapters import Adapter

KEY_VARIABLE = "LLAMA_API_KEY"  # of llama-server
MAX_LABEL = 200  # characters of a name in a file that are shown

# The fields that are read of a file; those with a dot are of its architecture.
_FIELDS = frozenset(
    """general.architecture general.name general.size_label general.file_type .context_length
    .embedding_length""".split()
)
_FILE_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1"}
_FILE_TYPES |= {10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M"}
_FILE_TYPES |= {16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S"}
_FILE_TYPES |= {22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M"}
_FILE_TYPES |= {28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0"}
_FILE_TYPES |= {37: "TQ2_0", 38: "MXFP4_MOE"}


class ModelFile(Struct, frozen=True):
    """The first GGUF file of a model: bytes of all parts, and its fields, if they can be read."""

    path: Path
    size: int
    fields: Mapping[str, Value] = {}

    @property
    def family(self) -> str:
        return self.text("general.architecture")

    @property
    def quantization(self) -> str:
        return _FILE_TYPES.get(self._number("general.file_type", -1), "")

    @property
    def template(self) -> str:
        """Its chat template, read in up to half a second; "" if it has none."""
        with contextlib.suppress(OSError, ValueError):
            return gguf.tokenizer(self.path).template
        return ""

    @property
    def context(self) -> int:
        """The tokens for which the model was made, 0 if unknown."""
        return self.own("context_length")

    def own(self, name: str) -> int:
        """A number of the model's family, 0 if unknown."""
        return self._number(f"{self.family}.{name}", 0)

    def _number(self, name: str, default: int) -> int:
        value = self.fields.get(name)
        return value if isinstance(value, int) and 0 <= value < 1 << 40 else default

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        return value[:MAX_LABEL] if isinstance(value, str) else ""


def files(config: ModelConfig) -> list[ModelFile]:
    """The GGUF files that the command of a model names; the first is that of the model itself."""
    listed = []
    for paths in _paths(config):
        size = 0
        for path in paths:
            with contextlib.suppress(OSError):
                size += path.stat().st_size
        if size:
            fields: Mapping[str, Value] = {}
            with contextlib.suppress(OSError, ValueError):
                fields = gguf.metadata(paths[0], _FIELDS)
            listed.append(ModelFile(paths[0], size, fields))
    return listed


def fingerprint(config: ModelConfig) -> str:
    """A digest of the command, the environment without its key, and the files."""
    seen = []
    for paths in _paths(config):
        for path in paths:
            with contextlib.suppress(OSError, ValueError):
                status = path.stat()
                seen.append((str(path), status.st_size, status.st_mtime_ns))
    environment = sorted(item for item in config.environment.items() if item[0] != KEY_VARIABLE)
    identity = (config.command, environment, seen)
    return hashlib.sha256(repr(identity).encode("utf-8", "surrogatepass")).hexdigest()


def flag(command: Sequence[str], *names: str) -> str:
    """The value of the last of these flags, as ``-c 4096`` or ``-c=4096``; "" if there is none."""
    return ["", *(value for name, value in _flags(command) if name in names)][-1]


def _flags(command: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word, after in zip(command, (*command[1:], ""), strict=True):
        name, equals, own = word.partition("=")
        yield name, own if equals else after


def adapters(command: Sequence[str]) -> tuple[Adapter, ...]:
    """The LoRA adapters that a llama-server has once it is loaded."""
    files: list[tuple[str, str]] = []
    for name, value in _flags(command):
        for file in value.split(","):
            if name == "--lora":
                files.append((file, ""))
            elif name == "--lora-scaled":
                path, _, scale = file.rpartition(":")
                files.append((path, scale))
    # How much each counts is read from the server, once it is loaded.
    return as_adapters((n, path, float(scale != "0")) for n, (path, scale) in enumerate(files))


# Whose own files a command names; docker, ssh and scripts may mean those of another system.
_SERVER = re.compile(r"llama|server|powerinfer|kobold", re.IGNORECASE)
_DOWNLOADS = ("-hf", "-hfr", "--hf-repo", "-mu", "--model-url", "-dr", "--docker-repo")


def missing_file(config: ModelConfig) -> str:
    """A model file that the command of a server names and that does not exist, "" for none."""
    command = config.command
    if not _SERVER.search(Path(command[0]).name) or flag(command, *_DOWNLOADS):
        return ""
    for named in (flag(command, "-m", "--model"), flag(command, "--mmproj", "-mm")):
        for path in parts(Path(config.folder, named)) if named else ():
            if not path.exists():
                return str(path)
    return ""


def foreign_file(config: ModelConfig) -> str:
    """A file of the command that is named .gguf and does not begin as one, "" for none."""
    for path in chain.from_iterable(_paths(config)):
        with contextlib.suppress(OSError, ValueError), path.open("rb") as opened:
            if opened.read(4) not in gguf.MAGIC:
                return str(path)
    return ""


def _paths(config: ModelConfig) -> Iterator[list[Path]]:
    """For each GGUF file that the command names, the paths of its parts."""
    for word in config.command:
        path = Path(config.folder, word.partition("=")[2] or word)
        if path.suffix == ".gguf":
            yield parts(path)


def parts(path: Path) -> list[Path]:
    """The files of a GGUF model; split ones are named NAME-00001-of-00003.gguf."""
    split = re.fullmatch(r"(.*-)00001(-of-(\d{5})\.gguf)", path.name)
    if split is None:
        return [path]
    numbers = range(1, int(split[3]) + 1)
    return [path.with_name(f"{split[1]}{number:05d}{split[2]}") for number in numbers]
