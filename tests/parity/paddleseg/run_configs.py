"""Builds the models of PaddleSeg's configs, fills them by the names of their tensors, and writes weights and logits.

To be run by `python -m benchmarks.paddleseg_configs --compare` in an environment with Paddle:

    python run_configs.py FOLDER N=CONFIG...

Writes FOLDER/N.pdparams and FOLDER/N.npz (image and logits, channels last) for each config.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddleseg.cvlibs import Config, SegBuilder

from tests.parity import detinit

SIZE = (128, 160)


def value(name: str, shape: tuple[int, ...], transformer: bool) -> np.ndarray:
    """Value of a tensor in Paddle's layout, in which linear layers are (in, out)."""
    if not transformer:
        return detinit.weight(name, shape)
    name = name.replace("_variance", "running_var")
    if len(shape) == 2:
        return detinit.transformer_weight(name, shape[::-1]).T
    return detinit.transformer_weight(name, shape)


def main() -> None:
    """Reads the command line."""
    folder = Path(sys.argv[1])
    image = detinit.image("configs", 1, *SIZE)
    for word in sys.argv[2:]:
        number, _, path = word.partition("=")
        config = Config(path)
        section: dict[str, Any] = config.dic["model"]
        section["pretrained"] = None
        if "backbone" in section:  # U-Net has none
            section["backbone"]["pretrained"] = None
        model = SegBuilder(config).model
        transformer = section["type"] == "SegFormer"
        state = model.state_dict()
        model.set_state_dict({name: value(name, tuple(x.shape), transformer) for name, x in state.items()})
        model.eval()
        with paddle.no_grad():
            logits = model(paddle.to_tensor(image.transpose(0, 3, 1, 2)))[0].numpy()
        paddle.save(model.state_dict(), str(folder / f"{number}.pdparams"))
        np.savez(folder / f"{number}.npz", image=image, logits=logits.transpose(0, 2, 3, 1))
        print(path, flush=True)


if __name__ == "__main__":
    main()
