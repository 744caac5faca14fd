"""Writes a small ChatGLM model with random or scripted weights, to test chatglm_cpp.

Without a script, the model babbles like ``made_up_model`` and never ends by itself. With a script,
it says exactly that, whatever the prompt: each piece of the script leads to the next, and the last
may be an end token (``</s>``, ``<|user|>``, ``<|observation|>``). A piece may occur only once in a
script; a byte piece (``<0xE4>``) is a part of a character. Prompts may contain anything. The oldest
family can only babble: its input and output share one matrix.

The file format is that of chatglm_cpp's ``convert.py``: "ggml", int32 model type, int32 config
version 2 and its 13 values, int32 length and bytes of the vocabulary (a sentencepiece model; for
GLM-4 lines of base64 and rank), then the tensors: int32 length and bytes of the name, int32
dimensions, shape and type, and the data, aligned to 16 bytes.

``python -m tools.made_up_chatglm FILE`` writes one.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from tools import made_up_model
from tools.servers import cache

Family = Literal["chatglm", "chatglm2", "chatglm3", "glm-4"]
Array = np.ndarray[Any, Any]
_TYPES: dict[Family, int] = {"chatglm": 1, "chatglm2": 2, "chatglm3": 3, "glm-4": 4}
_WIDTH, _HEADS, _KV_HEADS, _LAYERS, _INNER = 64, 4, 2, 2, 128
# Feed-forward of a babbling model, zero beyond _INNER. chatglm_cpp 0.4.2 writes beyond its buffers
# when the attention of a long answer needs more memory than its prompt did: from 1 045 tokens on
# with _INNER, from 29 000 on with this, after a prompt of seven.
_BABBLING_INNER = 8192
LONG = 12_000  # tokens that a babbling model takes some ten seconds for
_F32, _F16, _ALIGN = 0, 1, 16
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_MARKS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
_BEHIND: dict[Family, tuple[str, ...]] = {
    "chatglm": (),
    "chatglm2": _MARKS,
    "chatglm3": (*_MARKS, *_ROLES),
    "glm-4": (
        "<|endoftext|>",
        *_MARKS[:3],
        "<sop>",
        "<eop>",
        *_ROLES,
        "image",
        "/image",
        "v",
        "/v",
    ),
}
# The last token of a prompt, after which a script starts.
_LAST: dict[Family, str] = {"chatglm2": "：", "chatglm3": "<|assistant|>", "glm-4": "<|assistant|>"}


def _field(number: int, value: int | float | bytes) -> bytes:
    """Encode one field of a protocol buffer."""
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _sentencepiece(pieces: Sequence[tuple[str, float, int]]) -> bytes:
    """Encode a sentencepiece model of BPE pieces with byte fallback (sentencepiece_model.proto)."""
    out = b""
    for piece, score, kind in pieces:
        out += _field(1, _field(1, piece.encode()) + _field(2, score) + _field(3, kind))
    trainer = _field(3, 2) + _field(4, len(pieces)) + _field(35, 1)
    normaliser = _field(1, b"identity") + _field(3, 1) + _field(4, 0) + _field(5, 1)
    return out + _field(2, trainer) + _field(3, normaliser)


def _pieces(script: Sequence[str], family: Family) -> list[tuple[str, float, int]]:
    special = [("<unk>", 0.0, _UNKNOWN), ("<s>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL)]
    if family == "chatglm":
        marks = ("[MASK]", "[gMASK]", "<sop>", "<eop>", "<pad>", "<n>")
        special += [(mark, 0.0, _CONTROL) for mark in marks]
    octets = [(f"<0x{byte:02X}>", 0.0, _BYTE) for byte in range(256)]
    known = {piece for piece, _, _ in (*special, *octets)} | set(_BEHIND[family])
    own = [piece for piece in (_escaped(s) for s in script) if piece not in known]
    words = [piece for piece in made_up_model._pieces() if piece not in own]
    # Script pieces are last and have the lowest scores, so that prompts are not tokenized into
    # them.
    normal = [(piece, -float(rank), _NORMAL) for rank, piece in enumerate(words + own)]
    return [*special, *octets, *normal]


def _escaped(text: str) -> str:
    return text.replace(" ", made_up_model._SPACE)


def _bytes(piece: str) -> bytes:
    octet = re.fullmatch("<0x(..)>", piece)
    return bytes.fromhex(octet[1]) if octet else piece.replace(made_up_model._SPACE, " ").encode()


def _ranks(pieces: Sequence[tuple[str, float, int]]) -> bytes:
    """Encode the pieces as GLM-4 does: bytes in base64, and the rank, which is the id."""
    lines = (base64.b64encode(_bytes(piece)) + b" %d" % n for n, (piece, _, _) in enumerate(pieces))
    return b"\n".join(lines)


def write(
    path: Path | str,
    script: Sequence[str] = (),
    family: Family = "chatglm3",
    seed: int = 0,
    n_ctx: int = 2048,
) -> Path:
    """Write the model to ``path``, all or nothing. ``n_ctx`` is its context in tokens."""
    path = Path(path)
    pieces = _pieces(script, family)
    if family == "glm-4":  # no space marks in texts, and no duplicates
        pieces = [piece for piece in pieces[3:] if piece[2] == _BYTE or len(_bytes(piece[0])) > 1]
    ids = {piece: number for number, (piece, _, _) in enumerate(pieces)}
    ids |= {mark: len(pieces) + number for number, mark in enumerate(_BEHIND[family])}
    end = ids.get("<eop>" if family == "chatglm" else "<|endoftext|>", 2)
    if script:
        weights = _scripted(ids, script, _LAST[family], seed)
    else:
        normal = [number for number, (_, _, kind) in enumerate(pieces) if kind == _NORMAL]
        weights = _babbling(len(ids), normal, seed)
    inner = 4 * _WIDTH if family == "chatglm" else _INNER if script else _BABBLING_INNER
    tensors = _first_tensors(*weights) if family == "chatglm" else _tensors(*weights, inner)
    vocabulary = _ranks(pieces) if family == "glm-4" else _sentencepiece(pieces)
    heads = (_HEADS, _HEADS if family == "chatglm" else _KV_HEADS)
    shape = (len(ids), _WIDTH, *heads, _LAYERS, inner)
    config = (_F16, *shape, 1e-5, 0, 10000.0, n_ctx, end, -1)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(b"ggml" + struct.pack("<ii", _TYPES[family], 2))
            file.write(struct.pack("<iiiiiiififiii", *config))
            file.write(struct.pack("<i", len(vocabulary)) + vocabulary)
            for name, tensor in tensors.items():
                _tensor(file, name, tensor)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _tensor(file: BinaryIO, name: str, tensor: Array) -> None:
    matrix = tensor.ndim == 2
    file.write(struct.pack("<i", len(name)) + name.encode())
    shape = (tensor.ndim, *tensor.shape, _F16 if matrix else _F32)
    file.write(struct.pack(f"<{len(shape)}i", *shape))
    file.write(bytes(-file.tell() % _ALIGN))
    file.write(tensor.astype("<f2" if matrix else "<f4").tobytes())


class _Matrices:
    """The matrices between embedding and output: random, or all zero."""

    def __init__(self, draw: np.random.Generator | None) -> None:
        self._draw = draw

    def __call__(self, rows: int, columns: int) -> Array:
        if self._draw is None:
            return np.zeros((rows, columns))
        return self._draw.standard_normal((rows, columns)) * 0.12

    def back(self, rows: int, columns: int) -> Array:
        """Return a matrix whose result is added to a state; it leaves column 0 unchanged."""
        matrix = self(rows, columns)
        matrix[0] = 0.0
        return matrix


def _babbling(vocabulary: int, allowed: list[int], seed: int) -> tuple[Array, Array, _Matrices]:
    draw = np.random.default_rng(seed)
    embedding = draw.standard_normal((vocabulary, _WIDTH))
    output = draw.standard_normal((vocabulary, _WIDTH)) * 0.35
    # Column 0 is the same in every state, so it can suppress tokens for good.
    embedding[:, 0] = 4.0
    output[:, 0] = -40.0
    output[allowed, 0] = 0.0
    return embedding, output, _Matrices(draw)


def _scripted(
    ids: dict[str, int], script: Sequence[str], last: str, seed: int
) -> tuple[Array, Array, _Matrices]:
    one_byte = {chr(byte): f"<0x{byte:02X}>" for byte in range(128)}
    steps = [ids.get(_escaped(piece), ids.get(one_byte.get(piece, ""), -1)) for piece in script]
    assert len(set(steps)) == len(steps), "a piece comes twice in the script"
    embedding = np.random.default_rng(seed).standard_normal((len(ids), _WIDTH))
    # Attention and feed-forward add nothing, so each state is the last token's embedding.
    output = np.zeros((len(ids), _WIDTH))
    for before, following in zip([ids[last], *steps], steps, strict=False):
        output[following] = embedding[before]
    return embedding, output, _Matrices(None)


def _tensors(embedding: Array, output: Array, matrix: _Matrices, inner: int) -> dict[str, Array]:
    """Return the tensors of ChatGLM2 and later."""
    ones = np.ones(_WIDTH)
    qkv = _WIDTH + 2 * (_WIDTH // _HEADS * _KV_HEADS)
    tensors = {"transformer.embedding.word_embeddings.weight": embedding}
    zeros = (0, inner - _INNER)
    for layer in range(_LAYERS):
        block = f"transformer.encoder.layers.{layer}"
        tensors |= {
            f"{block}.input_layernorm.weight": ones,
            f"{block}.self_attention.query_key_value.weight": matrix(qkv, _WIDTH),
            f"{block}.self_attention.query_key_value.bias": np.zeros(qkv),
            f"{block}.self_attention.dense.weight": matrix.back(_WIDTH, _WIDTH),
            f"{block}.post_attention_layernorm.weight": ones,
            f"{block}.mlp.dense_h_to_4h.weight": np.concatenate(
                [
                    np.pad(half, (zeros, (0, 0)))  # the gate and what it multiplies
                    for half in np.split(matrix(2 * _INNER, _WIDTH), 2)
                ]
            ),
            f"{block}.mlp.dense_4h_to_h.weight": np.pad(
                matrix.back(_WIDTH, _INNER), ((0, 0), zeros)
            ),
        }
    tensors["transformer.encoder.final_layernorm.weight"] = ones
    tensors["transformer.output_layer.weight"] = output
    return tensors


def _first_tensors(embedding: Array, output: Array, matrix: _Matrices) -> dict[str, Array]:
    """Return the tensors of the first ChatGLM, which uses its embedding as output."""
    tensors = {"transformer.word_embeddings.weight": output}

    def norm(name: str) -> dict[str, Array]:
        # Column 0 of a normalized state is 1; through it, the embedding suppresses tokens.
        bias = np.zeros(_WIDTH)
        weight = np.ones(_WIDTH)
        weight[0], bias[0] = 0.0, 1.0
        return {f"{name}.weight": weight, f"{name}.bias": bias}

    def linear(name: str, weight: Array) -> dict[str, Array]:
        return {f"{name}.weight": weight, f"{name}.bias": np.zeros(len(weight))}

    for layer in range(_LAYERS):
        block = f"transformer.layers.{layer}"
        tensors |= norm(f"{block}.input_layernorm")
        tensors |= linear(f"{block}.attention.query_key_value", matrix(3 * _WIDTH, _WIDTH))
        tensors |= linear(f"{block}.attention.dense", matrix(_WIDTH, _WIDTH))
        tensors |= norm(f"{block}.post_attention_layernorm")
        tensors |= linear(f"{block}.mlp.dense_h_to_4h", matrix(4 * _WIDTH, _WIDTH))
        tensors |= linear(f"{block}.mlp.dense_4h_to_h", matrix(_WIDTH, 4 * _WIDTH))
    return tensors | norm("transformer.final_layernorm")


def cached() -> Path:
    """Return the babbling model of seed 0 in the user's cache; write it if it is missing or
    outdated."""
    source = Path(__file__).read_bytes() + Path(made_up_model.__file__).read_bytes()
    path = cache() / "models" / f"made-up-chatglm-{hashlib.sha256(source).hexdigest()[:10]}.bin"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    return path


if __name__ == "__main__":
    print(write(sys.argv[1]))
