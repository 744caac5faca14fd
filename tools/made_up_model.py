"""Writes a small llama model with random weights, for servers that need some model to run.

It babbles: words, Chinese, emoji and JSON punctuation in random order. It never ends by itself and
never emits a byte token, so answers have exactly the requested length and are valid UTF-8. Prompts
may contain anything (there is a token for every byte). The same seed gives the same file.

``python -m tools.made_up_model FILE`` writes one. With ``--fim`` it has the fill-in-the-middle
tokens that llama-server's /infill needs. With ``--sparse`` it has the format of PowerInfer's own
models (see its convert-hf-to-powerinfer-gguf.py), which no other server loads: each layer predicts
which of its neurons to evaluate. With ``--letters`` its pieces are single characters: a text has
one tokenization, so a text that a grammar forced upon the model has the tokens of a prompt.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

from tools.servers import cache

_WORDS = (
    "the a of to and in is it you that he was for on are as with his they at be this have from or "
    "one had by word but not what all were we when your can said there use an each which she do "
    "how their if will up other about out many then them these so some her would make like him "
    "into time has look two more write go see number no way could people my than first water been "
    "call who oil now find long down day did get come made may part hello world once upon model "
    "token answer question slot stream server"
).split()
_CHINESE = (
    "的一是不了在人有我他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可"
)
_CHINESE += (
    "她里后小么心多天而能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三"
)
_EMOJI = "😀😂🙂😍👍🎉🚀🌍🔥❤✅🐼"
_MARKS = "\n!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~0123456789，。！？：；（）「」、《》…—“”é"
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # sentencepiece's space

# The purpose of a token in the metadata, and its text, as in Qwen's coder models.
_FIM = {
    "pre": "<|fim_prefix|>",
    "suf": "<|fim_suffix|>",
    "mid": "<|fim_middle|>",
    "rep": "<|repo_name|>",
    "sep": "<|file_sep|>",
}

_WIDTH, _LAYERS, _HEADS, _INNER, _PREDICTOR = 64, 2, 4, 128, 16


def _pieces(letters: bool = False) -> list[str]:
    """Return the vocabulary after the bytes. The tokenizer reaches a piece only by joining two
    others, so every prefix of a word is a piece, too."""

    def grown() -> Iterator[str]:
        yield _SPACE
        yield from "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
        yield from _MARKS + _CHINESE + _EMOJI
        for word in _WORDS:
            for text in (_SPACE + word, word):
                yield from (text[:end] for end in range(2, len(text) + 1))
        yield from ('{"', '":', '",', '"}', "true", "false", "null")

    return [piece for piece in dict.fromkeys(grown()) if len(piece) == 1 or not letters]


def write(
    path: Path | str,
    seed: int = 0,
    n_ctx: int = 2048,
    *,
    fim: bool = False,
    sparse: bool = False,
    letters: bool = False,
) -> Path:
    """Write the model as GGUF (llama architecture, f16 matrices) to ``path``, all or nothing.

    ``n_ctx`` is its training context in tokens. ``fim`` adds the tokens for /infill, ``sparse``
    selects PowerInfer's format, ``letters`` pieces of one character.
    """
    path = Path(path)
    pieces = _pieces(letters)
    special = [
        ("<unk>", TokenType.UNKNOWN),
        ("<s>", TokenType.CONTROL),
        ("</s>", TokenType.CONTROL),
    ]
    tokens = [text for text, _ in special]
    types = [kind for _, kind in special]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [TokenType.BYTE] * 256
    fim_ids = {}
    for kind, mark in _FIM.items() if fim else ():
        fim_ids[kind] = len(tokens)
        tokens.append(mark)
        types.append(TokenType.CONTROL)
    mute = len(tokens)  # the tokens so far are never generated
    tokens += pieces
    types += [TokenType.NORMAL] * len(pieces)
    # Sentencepiece joins the pair whose piece has the highest score: here, the piece listed first.
    scores = [0.0] * mute + [-float(rank) for rank in range(len(pieces))]

    draw = np.random.default_rng(seed)

    def random(*shape: int, scale: float) -> np.ndarray:
        return (draw.standard_normal(shape) * scale).astype(np.float32)

    embedding = random(len(tokens), _WIDTH, scale=1.0)
    output = random(len(tokens), _WIDTH, scale=0.35)
    # Column 0 is the same in every state, so it sets how likely a token is, whatever the prompt.
    embedding[:, 0] = 4.0
    output[:, 0] = 0.0
    output[:mute, 0] = -40.0

    partial = path.with_name(f".{path.name}.{os.getpid()}")
    writer = GGUFWriter(str(partial), "llama")
    writer.add_name("made-up")
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_INNER)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(1)  # mostly f16
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(True)
    for kind, token in fim_ids.items():
        writer.add_uint32(f"tokenizer.ggml.fim_{kind}_token_id", token)

    def half(name: str, matrix: np.ndarray) -> None:
        writer.add_tensor(name, matrix.astype(np.float16))

    ones = np.ones(_WIDTH, dtype=np.float32)
    half("token_embd.weight", embedding)
    for layer in range(_LAYERS):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", ones)
        writer.add_tensor(f"{block}.ffn_norm.weight", ones)
        for name in ("attn_q", "attn_k", "attn_v"):
            half(f"{block}.{name}.weight", random(_WIDTH, _WIDTH, scale=0.2))
        half(f"{block}.ffn_gate.weight", random(_INNER, _WIDTH, scale=0.12))
        half(f"{block}.ffn_up.weight", random(_INNER, _WIDTH, scale=0.12))
        for name, width in (("attn_output", _WIDTH), ("ffn_down", _INNER)):
            back = random(_WIDTH, width, scale=0.12)
            back[0] = 0.0  # column 0 stays unchanged
            if sparse and name == "ffn_down":
                half(f"{block}.ffn_down_t.weight", np.ascontiguousarray(back.T))
            else:
                half(f"{block}.{name}.weight", back)
        if sparse:
            half(f"{block}.fc1.weight", random(_PREDICTOR, _WIDTH, scale=0.2))
            half(f"{block}.fc2.weight", random(_INNER, _PREDICTOR, scale=0.2))
    writer.add_tensor("output_norm.weight", ones)
    half("output.weight", output)

    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        if sparse:
            with partial.open("r+b") as file:
                file.write(b"PWRI")  # instead of GGUF
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def cached(*, fim: bool = False, sparse: bool = False, letters: bool = False) -> Path:
    """Return the model of seed 0 in the user's cache; write it if it is missing or this file has
    changed."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    kinds = {"fim": fim, "sparse": sparse, "letters": letters}
    kind = "".join(f"{name}-" for name, chosen in kinds.items() if chosen)
    path = cache() / "models" / f"made-up-{kind}{digest[:10]}.gguf"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        n_ctx = 16_384 if letters else 2048  # the same text has five times as many letters
        write(path, n_ctx=n_ctx, fim=fim, sparse=sparse, letters=letters)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.made_up_model", description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("file", help="the file to write")
    parser.add_argument("--fim", action="store_true", help="with fill-in-the-middle tokens")
    parser.add_argument("--sparse", action="store_true", help="in the format of PowerInfer")
    parser.add_argument("--letters", action="store_true", help="with pieces of one character")
    args = parser.parse_args()
    print(write(args.file, fim=args.fim, sparse=args.sparse, letters=args.letters))
