"""Make both models again from nothing: ``python -m tools.tinychat --work FOLDER``.

Steps, each a module of its own that can be run alone: the vocabulary; a base in the llama shape
that sees both families' prompts; from it the two shapes, each with its own prompts only and a
falling learning rate (the ChatGLM3 shape, whose calls are harder, for longer, and the mean of two
checkpoints); both files; the golden answers; the scores.  A step whose output is in the
work folder is not done again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE_STEPS = 4400
FINAL_STEPS = 900


def run(module: str, *words: str | Path) -> None:
    """Run a step in a process of its own, from the top of the checkout."""
    command = [sys.executable, "-m", f"tools.tinychat.{module}", *map(str, words)]
    print("+", *command[1:], flush=True)
    subprocess.run(command, check=True, cwd=ROOT)


def train(vocab: Path, out: Path, *words: str | Path) -> None:
    """Train unless the checkpoint is there already."""
    if not out.exists():
        run("train", "--vocab", vocab, "--out", out, *words)


def main() -> None:
    """Make the models, from the vocabulary to the scores."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument(
        "--golden", type=Path, default=ROOT / "tests" / "integration" / "tinychat_golden.jsonl"
    )
    args = parser.parse_args()
    work = args.work.resolve()
    vocab, base = work / "vocab.json", work / "base.pt"
    llama, chatglm = work / "llama.pt", work / "chatglm3.pt"
    if not vocab.exists():
        run("tokenizer", "--out", vocab)
    steps = ("--steps", str(BASE_STEPS), "--copy-steps", "200", "--other", "0.3")
    train(vocab, base, *steps, "--seed", "1")
    fall = ("--steps", str(FINAL_STEPS), "--decay", str(FINAL_STEPS - 100), "--seed", "2")
    train(vocab, llama, "--init", base, *fall)
    longer, polished = work / "longer.pt", work / "polished.pt"
    family = ("--family", "chatglm3")
    fall = ("--steps", "1800", "--decay", "1600", "--tools", "0.45", "--seed", "3")
    train(vocab, longer, "--init", base, *fall, *family)
    low = ("--rate", "0.008", "--adam-rate", "0.008")
    fall = ("--steps", "500", "--decay", "480", "--tools", "0.5", "--seed", "4")
    train(vocab, polished, "--init", longer, *fall, *low, *family)
    if not chatglm.exists():
        run("checkpoint", "--checkpoints", longer, polished, "--out", chatglm)
    models = args.models.resolve()
    run(
        "export_gguf",
        "--checkpoint",
        llama,
        "--vocab",
        vocab,
        "--out",
        models / "tinychat-llama.gguf",
    )
    run(
        "export_chatglm",
        "--checkpoint",
        chatglm,
        "--vocab",
        vocab,
        "--out",
        models / "tinychat-chatglm3.bin",
    )
    run("golden", "--checkpoints", llama, chatglm, "--vocab", vocab, "--out", args.golden)
    for checkpoint in (llama, chatglm):
        run("score", "--checkpoint", checkpoint, "--vocab", vocab, "--rounded")


if __name__ == "__main__":
    main()
