"""What a model may need before it was ever loaded: from its command and its GGUF files.

Weights are as large as the files. The cache of keys and values has a row for each token of the
context in each layer: its size follows from the fields of the file and the flags -c, -ctk and -ctv
of the command. Without -c it is assumed that each slot has the context for which the model was
made, as llama-server gives it. Layers with a sliding window or a recurrent state count as whole
ones, so their estimate is high; what the loaded model holds replaces it.

Layers on graphics cards (-ngl) are taken to be spread evenly over the cards.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from ..backends import gguf
from ..backends.gguf import Value
from ..config import ModelConfig
from .budget import Amounts

OVERHEAD = 64 << 20  # bytes of a server without its model
SHARE = 20  # buffers for the evaluation are about a twentieth of the weights
UNREAD = 10  # the same with the cache, if the fields of the file cannot be read: a tenth
KEY_VARIABLE = "LLAMA_API_KEY"  # of llama-server
MAX_PARTS = 1000  # files of a split model
MAX_LAYERS = 10_000
MAX_LABEL = 200  # characters of a name in a file that are shown

# The fields that are read of a file; those with a dot are of its architecture.
_FIELDS = frozenset(
    {
        "general.architecture",
        "general.name",
        "general.size_label",
        "general.file_type",
        ".context_length",
        ".block_count",
        ".embedding_length",
        ".attention.head_count",
        ".attention.head_count_kv",
        ".attention.key_length",
        ".attention.value_length",
    }
)
# Bits of an element of the cache, by the names of --cache-type-k.
_BITS = {"f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5}
_BITS |= {"q4_1": 5.0, "q4_0": 4.5, "iq4_nl": 4.5}
_FILE_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1"}
_FILE_TYPES |= {10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M"}
_FILE_TYPES |= {16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 32: "BF16", 38: "MXFP4_MOE"}


class ModelFile(Struct, frozen=True):
    """The first GGUF file of a model: bytes of all its parts, and its fields, empty if they cannot
    be read."""

    path: Path
    size: int
    fields: Mapping[str, Value] = {}

    @property
    def family(self) -> str:
        return self.text("general.architecture")

    @property
    def quantization(self) -> str:
        return _FILE_TYPES.get(self.number("general.file_type", -1), "")

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
        return self.number(f"{self.family}.{name}")

    def number(self, name: str, default: int = 0) -> int:
        value = self.fields.get(name)
        return value if isinstance(value, int) and 0 <= value < 1 << 40 else default

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        return value[:MAX_LABEL] if isinstance(value, str) else ""

    def rows(self) -> tuple[int, int]:
        """The elements that a token takes in the caches of keys and of values."""
        layers = min(self.own("block_count"), MAX_LAYERS)
        heads = self._of_layers("attention.head_count_kv", layers)
        heads = heads if any(heads) else self._of_layers("attention.head_count", layers)
        queries = max(self._of_layers("attention.head_count", layers), default=0)
        usual = self.own("embedding_length") // queries if queries else 0
        keys = self.own("attention.key_length") or usual
        values = self.own("attention.value_length") or usual
        return sum(heads) * keys, sum(heads) * values

    def _of_layers(self, name: str, layers: int) -> Sequence[int]:
        value = self.fields.get(f"{self.family}.{name}")
        if isinstance(value, tuple):
            return [max(0, int(one)) for one in value[:layers]]
        return [self.own(name)] * layers


def files(config: ModelConfig) -> list[ModelFile]:
    """The GGUF files that the command of a model names; the first is that of the model itself."""
    found = []
    for word in config.command:
        size = 0
        first = Path(config.folder, word.partition("=")[2] or word)
        for path in parts(first):
            with contextlib.suppress(OSError):
                size += path.stat().st_size
        if size:
            found.append(ModelFile(first, size, _fields(first)))
    return found


def _fields(path: Path) -> Mapping[str, Value]:
    with contextlib.suppress(OSError, ValueError):
        return gguf.metadata(path, _FIELDS)
    return {}


def estimated(files: Sequence[ModelFile], command: Sequence[str], cards: int = 0) -> Amounts:
    """What a model with these files may need, on so many graphics cards."""
    need = [float(OVERHEAD), *([0.0] * cards)]
    for file in files:
        if file.fields:
            size = file.size + cache(file, command) + file.size // SHARE
        else:
            size = file.size + file.size // UNREAD
        share = _on_cards(file, command) if cards else 0.0
        need[0] += size * (1 - share)
        for card in range(1, cards + 1):
            need[card] += size * share / cards
    return tuple(map(round, need))


def _on_cards(file: ModelFile, command: Sequence[str]) -> float:
    """Which part of a model its server puts on graphics cards; without -ngl, all of it."""
    if flag(command, "-dev", "--device") == "none":
        return 0.0
    layers = _count(command, "-ngl", "--gpu-layers", "--n-gpu-layers")
    if not flag(command, "-ngl", "--gpu-layers", "--n-gpu-layers").isdecimal():
        return 1.0
    return min(1.0, layers / (min(file.own("block_count"), MAX_LAYERS) + 1))


def cache(file: ModelFile, command: Sequence[str]) -> int:
    """The bytes of the cache of a model's whole context; 0 if it has none."""
    context = _count(command, "-c", "--ctx-size") or file.context * _slots(command)
    keys, values = file.rows()
    bits = keys * _kind(command, "-ctk", "--cache-type-k")
    bits += values * _kind(command, "-ctv", "--cache-type-v")
    return round(context * bits / 8)


def _slots(command: Sequence[str]) -> int:
    """The slots that have a context of their own each; by default they share one."""
    shared = any(word in ("-kvu", "--kv-unified") for word in command)
    return 1 if shared else max(1, _count(command, "-np", "--parallel"))


def _count(command: Sequence[str], *names: str) -> int:
    given = flag(command, *names)
    return int(given) if re.fullmatch(r"[0-9]{1,9}", given) else 0


def _kind(command: Sequence[str], *names: str) -> float:
    return _BITS.get(flag(command, *names).lower(), _BITS["f16"])


def flag(command: Sequence[str], *names: str) -> str:
    """The value of the last of these flags, as ``-c 4096`` or ``-c=4096``; "" if there is none."""
    value = ""
    for word, after in zip(command, (*command[1:], ""), strict=True):
        name, equals, own = word.partition("=")
        if name in names:
            value = own if equals else after
    return value


def fingerprint(config: ModelConfig) -> str:
    """A digest of all on which the need of a model depends: its command, its environment without
    its key, and the size and time of its files."""
    seen = [
        (str(path), status.st_size, status.st_mtime_ns)
        for word in config.command
        for path in parts(Path(config.folder, word.partition("=")[2] or word))
        if (status := _status(path)) is not None
    ]
    environment = sorted(item for item in config.environment.items() if item[0] != KEY_VARIABLE)
    known = (config.command, environment, seen)
    return hashlib.sha256(repr(known).encode("utf-8", "surrogatepass")).hexdigest()


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def parts(path: Path) -> Iterator[Path]:
    """The files of a GGUF model; split ones are named NAME-00001-of-00003.gguf."""
    if path.suffix != ".gguf":
        return
    split = re.fullmatch(r"(.*-)00001(-of-(\d{5})\.gguf)", path.name)
    if split is None:
        yield path
        return
    for number in range(1, min(int(split[3]), MAX_PARTS) + 1):
        yield path.with_name(f"{split[1]}{number:05d}{split[2]}")
