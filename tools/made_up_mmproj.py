"""Writes a small vision projector with random weights, so that a llama-server of 2026 accepts
images.

It turns an image into four tokens: the mean colours of its quarters, times a random matrix. The
model learns nothing from them, but different images give different prompts. The layout is that of
llava's projectors as clip.cpp of llama.cpp reads them, without a transformer.

``python -m tools.made_up_mmproj MODEL.gguf FILE`` writes a projector for the model; then run
``llama-server -m MODEL.gguf --mmproj FILE``.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter

from tools.servers import cache

_INNER, _PATCH = 16, 14
_IMAGE = 2 * _PATCH  # every image is scaled to two by two patches


def write(path: Path | str, width: int, seed: int = 0) -> Path:
    """Write the projector to ``path``, all or nothing; ``width`` is the embedding length of its
    model."""
    path = Path(path)
    draw = np.random.default_rng(seed)

    def random(*shape: int, scale: float) -> np.ndarray:
        return (draw.standard_normal(shape) * scale).astype(np.float32)

    partial = path.with_name(f".{path.name}.{os.getpid()}")
    writer = GGUFWriter(str(partial), "clip")
    writer.add_name("made-up projector")
    writer.add_file_type(0)  # f32
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_image_size(_IMAGE)
    writer.add_vision_patch_size(_PATCH)
    writer.add_vision_embedding_length(_INNER)
    writer.add_vision_feed_forward_length(2 * _INNER)
    writer.add_vision_block_count(0)
    writer.add_vision_head_count(1)
    writer.add_vision_projection_dim(width)
    writer.add_vision_attention_layernorm_eps(1e-5)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_vision_use_gelu(True)

    # The same weight for all pixels of a patch, per colour: the mean.
    colours = np.repeat(random(_INNER, 3, scale=1.0 / _PATCH**2), _PATCH**2, axis=1)
    writer.add_tensor("v.patch_embd.weight", colours.reshape(_INNER, 3, _PATCH, _PATCH))
    writer.add_tensor("v.position_embd.weight", random(4, _INNER, scale=0.3))
    writer.add_tensor("mm.0.weight", random(width, _INNER, scale=0.5))
    writer.add_tensor("mm.0.bias", np.zeros(width, dtype=np.float32))
    writer.add_tensor("mm.2.weight", random(width, width, scale=1.0))
    writer.add_tensor("mm.2.bias", np.zeros(width, dtype=np.float32))

    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def width_of(model: Path | str) -> int:
    """Return the embedding length of a GGUF model."""
    fields = GGUFReader(str(model)).fields
    architecture = str(fields["general.architecture"].contents())
    return int(fields[f"{architecture}.embedding_length"].contents())


def cached(model: Path) -> Path:
    """Return the projector for this model in the user's cache; write it if it is missing or this
    file has changed."""
    width = width_of(model)
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    path = cache() / "models" / f"made-up-mmproj-{width}-{digest[:10]}.gguf"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, width)
    return path


if __name__ == "__main__":
    print(write(sys.argv[2], width_of(sys.argv[1])))
