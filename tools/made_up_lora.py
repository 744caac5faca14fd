"""Writes small LoRA adapters with random weights, for a llama model such as the made-up one.

An adapter changes what the model computes for every token of a prompt, twice as much as the made-up
model's own weights do. So an answer tells with which adapters its prompt was evaluated.

``python -m tools.made_up_lora MODEL.gguf FILE`` writes one for the model; then run ``llama-server
-m MODEL.gguf --lora FILE``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter

_RANK = 8
_CHANGED = ("attn_q.weight", "attn_k.weight", "attn_v.weight")


def write(model: Path | str, path: Path | str, seed: int = 0) -> Path:
    """Write an adapter for ``model`` to ``path``, all or nothing."""
    path = Path(path)
    draw = np.random.default_rng(seed)

    def random(*shape: int, scale: float) -> np.ndarray:
        return (draw.standard_normal(shape) * scale).astype(np.float32)

    partial = path.with_name(f".{path.name}.{os.getpid()}")
    writer = GGUFWriter(str(partial), "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(_RANK))
    for tensor in GGUFReader(str(model)).tensors:
        if tensor.name.endswith(_CHANGED):
            inputs, outputs = map(int, tensor.shape)
            writer.add_tensor(f"{tensor.name}.lora_a", random(_RANK, inputs, scale=0.3))
            writer.add_tensor(f"{tensor.name}.lora_b", random(outputs, _RANK, scale=0.5))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


if __name__ == "__main__":
    print(write(sys.argv[1], sys.argv[2]))
