"""Runs torchvision's MobileNetV3 and LR-ASPP on values that follow from names, and writes what they compute.

To be run from the checkout's root in an environment of its own, with NumPy, torch and torchvision of the same release
(the files here come from torch 2.13.0 and torchvision 0.28.0, on a CPU):

    PYTHONPATH=. python tests/parity/mobilenet/generate.py

Of each model it writes the numbers of parameters, every eighth logit in evaluation and in training, and some gradients;
of the undilated backbones some of their features. `tests/parity/test_mobilenet.py` compares them with ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torchvision.models import mobilenet_v3_large, mobilenet_v3_small
from torchvision.models.segmentation.lraspp import _lraspp_mobilenetv3

from tests.parity import detinit

FOLDER = Path(__file__).parent
CLASSES = 7
SIZE = (97, 131)
GRADIENTS = ("backbone.0.0", "backbone.{last}.block.1.0", "backbone.{last}.block.2.fc1", "classifier.scale.1")


def fill(model: torch.nn.Module) -> torch.nn.Module:
    """Sets every tensor from its name; statistics are called as in the benchmark's files."""
    state = model.state_dict()
    for name, tensor in state.items():
        if not name.endswith("num_batches_tracked"):
            known = name.replace("running_mean", "_mean").replace("running_var", "_variance")
            shape = tuple(tensor.shape)
            # The classification head, which is 2D, takes no part; any values do.
            value = np.zeros(shape, np.float32) if len(shape) == 2 else detinit.weight(known, shape)
            state[name] = torch.from_numpy(value)
    model.load_state_dict(state)
    return model


def image(key: str, count: int) -> torch.Tensor:
    """(count, 3, height, width)."""
    return torch.from_numpy(np.ascontiguousarray(detinit.image(key, count, *SIZE).transpose(0, 3, 1, 2)))


def segmentor(backbone: Any, name: str) -> dict[str, int]:
    """Writes the outputs of an LR-ASPP and returns its numbers of parameters."""
    model = fill(_lraspp_mobilenetv3(backbone, num_classes=CLASSES))
    last = max(int(key) for key in model.backbone) - 1
    with torch.no_grad():
        evaluated = model.eval()(image("eval", 1))["out"]
    trained = model.train()(image("train", 2))["out"]
    weights = torch.from_numpy(detinit.uniform("gradient", tuple(trained.shape), -1.0, 1.0))
    (trained * weights).sum().backward()
    parameters = dict(model.named_parameters())
    arrays = {"eval": evaluated, "train": trained.detach()}
    arrays = {key: value.numpy()[:, :, ::8, ::8].transpose(0, 2, 3, 1) for key, value in arrays.items()}
    for key in (key.format(last=last) for key in GRADIENTS):
        arrays[key] = parameters[f"{key}.weight"].grad.numpy()[::8, ::8]
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
    return counts(model)


def backbone(model: Any, name: str, positions: tuple[int, ...]) -> dict[str, int]:
    """Writes features of an undilated backbone and returns the numbers of parameters, classifier included."""
    fill(model).eval()
    x, features = image("eval", 1), {}
    with torch.no_grad():
        for position, layer in enumerate(model.features):
            x = layer(x)
            if position in positions:
                features[f"c{positions.index(position) + 2}"] = x.numpy()[:, ::8, ::2, ::2].transpose(0, 2, 3, 1)
    np.savez_compressed(FOLDER / f"{name}.npz", **features)
    return counts(model) | {"without_classifier": sum(p.numel() for p in model.features.parameters())}


def counts(model: torch.nn.Module) -> dict[str, int]:
    """Returns the numbers of trainable parameters and of values without torch's counters."""
    values = {k: v.numel() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    return {"trainable": sum(p.numel() for p in model.parameters()), "state_values": sum(values.values())}


def main() -> None:
    """Writes all files."""
    facts = {
        "lraspp_large": segmentor(mobilenet_v3_large(dilated=True), "lraspp_large"),
        "lraspp_large_reduced": segmentor(mobilenet_v3_large(dilated=True, reduced_tail=True), "lraspp_large_reduced"),
        "lraspp_small": segmentor(mobilenet_v3_small(dilated=True), "lraspp_small"),
        "lraspp_small_reduced": segmentor(mobilenet_v3_small(dilated=True, reduced_tail=True), "lraspp_small_reduced"),
        "large": backbone(mobilenet_v3_large(), "large", (2, 4, 7, 16)),
        "small": backbone(mobilenet_v3_small(), "small", (1, 2, 4, 12)),
        "made_with": {module.__name__: module.__version__.split("+")[0] for module in (torch, torchvision)},
    }
    (FOLDER / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
