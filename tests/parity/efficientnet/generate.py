"""Runs timm's EfficientNets on values that follow from names, and writes some of their features.

To be run from the checkout's root in an environment of its own, with NumPy, torch and timm (the files here come from
torch 2.14.1 and timm 1.0.31, on a CPU):

    PYTHONPATH=. python tests/parity/efficientnet/generate.py

Names are those of efficientnet-pytorch, in whose order timm's tensors are too. `tests/parity/test_efficientnet.py`
compares the features with ours.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import timm
import torch

from tests.parity import detinit

FOLDER = Path(__file__).parent
SIZE = (97, 131)
MODELS = ("tf_efficientnet_lite0", "tf_efficientnet_lite2", "efficientnet_b0", "efficientnet_b2")

# A layer of a block in timm -> in efficientnet-pytorch.
_EVERY = {"conv_dw": "_depthwise_conv", "se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
_UNEXPANDED = {"bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
_EXPANDED = {
    "conv_pw": "_expand_conv", "bn1": "_bn0", "bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2",
}  # fmt: skip


def released_names(names: list[str]) -> dict[str, str]:
    """Returns timm's names of a backbone's tensors, each with that of efficientnet-pytorch."""
    blocks = list(dict.fromkeys(re.findall(r"^blocks\.\d+\.\d+", "\n".join(names), re.M)))
    found = {}
    for name in names:
        match = re.match(r"(blocks\.\d+\.\d+)\.(.*)\.(\w+)$", name)
        if match is None:
            layer, variable = name.rsplit(".", 1)
            layer = {"conv_stem": "_conv_stem", "bn1": "_bn0"}[layer]
        else:
            block, layer, variable = match.groups()
            first = f"{block}.conv_pwl.weight" not in names  # a block that does not widen calls its last conv_pw
            layer = {**_EVERY, **(_UNEXPANDED if first else _EXPANDED)}[layer]
            layer = f"_blocks.{blocks.index(block)}.{layer}"
        variable = {"running_mean": "_mean", "running_var": "_variance"}.get(variable, variable)
        found[name] = f"{layer}.{variable}"
    return found


def main() -> None:
    """Writes a file for each model."""
    for name in MODELS:
        model = timm.create_model(name, features_only=True).eval()
        state = {key: tensor for key, tensor in model.state_dict().items() if "num_batches_tracked" not in key}
        for key, released in released_names(list(state)).items():
            state[key] = torch.from_numpy(detinit.weight(released, tuple(state[key].shape)))
        missing = model.load_state_dict(state, strict=False)
        assert not missing.unexpected_keys
        image = np.ascontiguousarray(detinit.image("eval", 1, *SIZE).transpose(0, 3, 1, 2))
        with torch.no_grad():
            features = model(torch.from_numpy(image))
        arrays = {f"c{i}": x.numpy()[:, ::8, ::3, ::3].transpose(0, 2, 3, 1) for i, x in enumerate(features, 1)}
        # The finest features are the largest and say the least.
        arrays["c1"], arrays["c2"] = arrays["c1"][:, ::4, ::4], arrays["c2"][:, ::2, ::2]
        np.savez_compressed(FOLDER / f"{name.removeprefix('tf_')}.npz", **arrays)
        print(name, {key: float(x.std()) for key, x in arrays.items()})


if __name__ == "__main__":
    main()
