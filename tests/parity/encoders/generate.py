"""Runs SegFormer and ConvNeXt of other projects on values that follow from names, and writes what they compute.

To be run from the checkout's root in an environment of its own, with NumPy, torch, torchvision, timm and transformers
(the files here come from torch 2.14.1, torchvision 0.29.1, timm 1.0.31 and transformers 5.24.0, on a CPU):

    PYTHONPATH=. python tests/parity/encoders/generate.py

Of each network it writes the names and shapes of its tensors and some of the values of its features; of SegFormer
those of its logits, too. `tests/parity/test_encoders.py` compares them with ours. With `--size 160 96 --folder OUT` it
does so for images of another size.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from safetensors.numpy import load_file
from torchvision.models.convnext import CNBlockConfig
from transformers import ConvNextConfig, ConvNextModel, SegformerConfig, SegformerForSemanticSegmentation

from tests.parity import detinit

CLASSES = 7
DEPTHS, WIDTHS = (1, 2, 1, 1), (8, 16, 24, 32)  # of the ConvNeXts
EVERY = 8  # a channel of eight is written, and a pixel of nine


def fill(model: torch.nn.Module, names: dict[str, str] | None = None) -> torch.nn.Module:
    """Sets every tensor from its name; `names` are those in files where they differ."""
    state = model.state_dict()
    for name, tensor in state.items():
        if not name.endswith("num_batches_tracked"):
            known = name if names is None else names[name]
            state[name] = torch.from_numpy(detinit.transformer_weight(known, tuple(tensor.shape)))
    model.load_state_dict(state)
    return model.eval()


def names_in_files(model: Any) -> dict[str, str]:
    """Returns the names that `save_pretrained` gives to the tensors of a model's state."""
    for number, tensor in enumerate(model.state_dict().values()):
        tensor.fill_(number)  # tells them apart
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        saved = load_file(Path(folder) / "model.safetensors")
    by_number = {int(array.flat[0]): name for name, array in saved.items()}
    return {name: by_number[number] for number, name in enumerate(model.state_dict())}


def write(folder: Path, name: str, shapes: dict[str, tuple[int, ...]], maps: dict[str, torch.Tensor]) -> None:
    """Writes `name.npz`: the tensors' names and shapes, and parts of what the network computes."""
    arrays = {key: value.numpy().transpose(0, 2, 3, 1) for key, value in maps.items()}
    parts = {k: a[:, ::3, ::3] if k == "logits" else a[:, ::3, ::3, ::EVERY] for k, a in arrays.items()}
    spread = {f"{key}_spread": np.float32(array.std()) for key, array in arrays.items()}
    tensors = np.array([f"{key} {','.join(map(str, shape))}" for key, shape in shapes.items()])
    np.savez_compressed(folder / f"{name}.npz", tensors=tensors, **parts, **spread)


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of tensors by name, without torch's counters."""
    return {name: tuple(x.shape) for name, x in state.items() if not name.endswith("num_batches_tracked")}


@torch.no_grad()
def segformer(folder: Path, image: torch.Tensor) -> None:
    """Hugging Face's SegFormer-B0, whose default configuration it is."""
    model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=CLASSES))
    names = names_in_files(model)
    fill(model, names)
    output = model(image, output_hidden_states=True)
    logits = torch.nn.functional.interpolate(output.logits, size=image.shape[2:], mode="bilinear", align_corners=False)
    features = {f"c{i}": x for i, x in enumerate(output.hidden_states, start=2)}
    shapes = {names[name]: shape for name, shape in shapes_of(model.state_dict()).items()}
    write(folder, "segformer_b0", shapes, {**features, "logits": logits})


@torch.no_grad()
def convnexts(folder: Path, image: torch.Tensor) -> None:
    """A narrow ConvNeXt of each project."""
    of_timm = fill(timm.create_model("convnext_tiny", depths=DEPTHS, dims=WIDTHS, num_classes=CLASSES))
    features = of_timm.forward_intermediates(image, intermediates_only=True)
    write(folder, "convnext_timm", shapes_of(of_timm.state_dict()), {f"c{i}": x for i, x in enumerate(features, 2)})

    blocks = [CNBlockConfig(w, n, d) for w, n, d in zip(WIDTHS, (*WIDTHS[1:], None), DEPTHS, strict=True)]
    model = fill(torchvision.models.ConvNeXt(blocks, num_classes=CLASSES))
    x, found = image, {}
    for position, layer in enumerate(model.features):
        x = layer(x)
        if position % 2:
            found[f"c{position // 2 + 2}"] = x
    write(folder, "convnext_torchvision", shapes_of(model.state_dict()), found)

    of_hf = ConvNextModel(ConvNextConfig(depths=list(DEPTHS), hidden_sizes=list(WIDTHS)))
    names = names_in_files(of_hf)
    fill(of_hf, names)
    states = of_hf(image, output_hidden_states=True).hidden_states[1:]
    shapes = {names[name]: shape for name, shape in shapes_of(of_hf.state_dict()).items()}
    write(folder, "convnext_hugging_face", shapes, {f"c{i}": x for i, x in enumerate(states, 2)})


def main() -> None:
    """Writes all files."""
    parser = argparse.ArgumentParser(description="see the module's docstring")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)

    def image(height: int, width: int) -> torch.Tensor:
        size = options.size or (height, width)
        pixels = detinit.image("encoders", 1, *size).transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(pixels))

    segformer(options.folder, image(97, 131))
    # Where sides are no multiples of 32 ConvNeXt leaves pixels out, and ours does not.
    convnexts(options.folder, image(96, 160))


if __name__ == "__main__":
    main()
