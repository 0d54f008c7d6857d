"""Runs backbones of torchvision, timm and torchgeo on values that follow from names, and writes some of their features.

To be run from the checkout's root in an environment of its own, with NumPy, torch, torchvision and timm (the files here
come from torch 2.14.1, torchvision 0.29.1 and timm 1.0.31, on a CPU):

    PYTHONPATH=. python tests/parity/timm/generate.py

`tests/parity/test_timm.py` compares them with ours. Other values, sizes and networks, such as those of the second list,
whose files that test compares too where they lie in a folder that `RSSEG_TF_TIMM` names:

    … generate.py --folder OUT --prefix other/ --size 160 96 timm/hrnet_w48 torchvision/resnet101
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision

from tests.parity import detinit

FOLDER = Path(__file__).parent
SIZE = (96, 160)  # HRNet's sides must be multiples of 32
CASES = (
    "torchvision/resnet18", "torchvision/resnet50", "torchvision/efficientnet_b0",
    "timm/resnet18d", "timm/resnet50d", "timm/hrnet_w18_small_v2", "timm/tf_efficientnet_b1",
    "timm/tf_efficientnet_lite0", "timm/efficientnet_lite2", "torchgeo/resnet18",
)  # fmt: skip
OTHERS = (
    "torchvision/resnet34", "torchvision/resnet101", "torchvision/efficientnet_b1", "torchvision/efficientnet_b3",
    "torchvision/efficientnet_b4", "torchvision/efficientnet_b2",
    "timm/efficientnet_b1", "timm/resnet101d", "timm/resnet50c", "timm/hrnet_w18", "timm/hrnet_w48",
    "timm/tf_efficientnet_b4", "timm/efficientnet_b3", "timm/tf_efficientnet_lite1", "torchgeo/resnet50",
)  # fmt: skip
BANDS = {"torchgeo": 13}  # Sentinel-2's
_EFFICIENTNET_STAGES = (1, 2, 3, 5, 7)


def build(name: str, bands: int) -> torch.nn.Module:
    """Returns a classifier with random weights, `project/network`."""
    project, _, network = name.partition("/")
    if project == "torchvision":
        return torchvision.models.get_model(network, weights=None).eval()
    # Torchgeo's functions do this, too.
    return timm.create_model(network, in_chans=bands).eval()


def fill(model: torch.nn.Module, prefix: str) -> None:
    """Sets every tensor from its name; statistics are called as in the benchmark's files."""
    state = model.state_dict()
    for name, tensor in state.items():
        if not name.endswith("num_batches_tracked"):
            known = name.replace("running_mean", "_mean").replace("running_var", "_variance")
            state[name] = torch.from_numpy(detinit.weight(known, tuple(tensor.shape), prefix))
    model.load_state_dict(state)


def features(model: torch.nn.Module, name: str, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns what a network computes at each stride; of an HRNet all branches at stride 4, one behind the other."""
    if "hrnet" in name:
        first = model.act1(model.bn1(model.conv1(image)))
        branches = model.stages(model.act2(model.bn2(model.conv2(first))))
        size = branches[0].shape[2:]
        resized = [torch.nn.functional.interpolate(x, size=size, mode="bilinear") for x in branches[1:]]
        return {"c1": first, "c2": torch.cat([branches[0], *resized], 1)}
    if not name.startswith("torchvision/"):
        found = model.forward_intermediates(image, intermediates_only=True)
        return {f"c{i}": x for i, x in enumerate(found, 1)}
    if "efficientnet" in name:
        results = [image := layer(image) for layer in model.features]
        return {f"c{i}": results[stage] for i, stage in enumerate(_EFFICIENTNET_STAGES, 1)}
    found = [model.relu(model.bn1(model.conv1(image)))]
    x = model.maxpool(found[0])
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        found.append(x := layer(x))
    return {f"c{i}": x for i, x in enumerate(found, 1)}


@torch.no_grad()
def write(folder: Path, name: str, size: tuple[int, int], prefix: str = "") -> None:
    """Writes the names and shapes of a network's tensors and parts of its features."""
    bands = BANDS.get(name.partition("/")[0], 3)
    model = build(name, bands)
    fill(model, prefix)
    pixels = detinit.image(f"{prefix}timm", bands, *size)[None, ..., 0]  # each band is the first of an image
    found = features(model, name, torch.from_numpy(pixels.copy()))
    arrays = {key: x.numpy().transpose(0, 2, 3, 1) for key, x in found.items()}
    # The finest features are the largest and say the least.
    steps = {key: 12 if key == "c1" else 6 if key == "c2" else 3 for key in arrays}
    parts = {key: array[:, :: steps[key], :: steps[key], ::8] for key, array in arrays.items()}
    spreads = {f"{key}_spread": np.float32(array.std()) for key, array in arrays.items()}
    shapes = {key: x.shape for key, x in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    tensors = np.array([f"{key} {','.join(map(str, shape))}" for key, shape in shapes.items()])
    facts = {"tensors": tensors, "size": np.array(size), "prefix": np.array(prefix), "bands": np.array(bands)}
    np.savez_compressed(folder / f"{name.replace('/', '_')}.npz", **facts, **parts, **spreads)
    print(name, spreads)


def main() -> None:
    """Writes a file for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="project/network; `others` for the second list")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--prefix", default="", help="another one, other values")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in OTHERS if options.names == ["others"] else options.names or CASES:
        write(options.folder, name, tuple(options.size), options.prefix)


if __name__ == "__main__":
    main()
