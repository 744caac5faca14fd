"""Read checkpoints, give them another shape, and round weights as the exported files do.

Run as a module it writes the mean of the weights of several checkpoints: the last ones of a
training are each a little wrong in other places.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from tools.tinychat.model import Config, Model
from tools.tinychat.quantize import q8_0, unpack_q8_0


def load(path: Path) -> tuple[Model, dict[str, Any]]:
    """The model of a checkpoint, ready for use, and what the checkpoint says about its making."""
    data = torch.load(path, weights_only=True)
    model = Model(Config(**data["config"]))
    model.load_state_dict(data.pop("model"))
    return model.eval(), data


def round_q8_0(model: Model) -> None:
    """Give every matrix the values that Q8_0 keeps."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim != 2:
                continue
            values = unpack_q8_0(q8_0(parameter.numpy()))
            parameter.copy_(torch.from_numpy(values))


def take_over(model: Model, path: Path) -> None:
    """Take over the weights of a checkpoint of either shape; biases that it lacks stay zero."""
    state = torch.load(path, weights_only=True)["model"]
    state = {name: value for name, value in state.items() if name in model.state_dict()}
    missing, _ = model.load_state_dict(state, strict=False)
    if any(not name.endswith("bias") for name in missing):
        raise SystemExit(f"{path} does not fit: it lacks {missing}")


def main() -> None:
    """Write the mean of checkpoints of one shape."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--checkpoints", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    read = [torch.load(path, weights_only=True) for path in args.checkpoints]
    weights = {
        name: torch.stack([one["model"][name] for one in read]).mean(dim=0)
        for name in read[0]["model"]
    }
    torch.save({**read[-1], "model": weights}, args.out)


if __name__ == "__main__":
    main()
