"""Runs networks of segmentation_models_pytorch on values that follow from names, and writes some of their logits.

To be run from the checkout's root in an environment of its own, with NumPy, torch and segmentation_models_pytorch (the
files here come from torch 2.14.1 and segmentation_models_pytorch 0.6.0, on a CPU):

    PYTHONPATH=. python tests/parity/smp/generate.py

`tests/parity/test_smp.py` compares them with ours. Other networks, the number of classes at the end:
`… generate.py --folder OUT unet/tu-resnet50d/1`; with `RSSEG_TF_SMP=OUT` the test compares them, too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch

from tests.parity import detinit

CLASSES, SIZE = 5, (96, 160)
NETWORKS = {"unet": smp.Unet, "fpn": smp.FPN, "deeplabv3plus": smp.DeepLabV3Plus, "pspnet": smp.PSPNet}
ENCODERS = ("resnet18", "efficientnet-b0")
CASES = [f"{name}/{encoder}/{CLASSES}" for name in NETWORKS for encoder in ENCODERS]
CASES += ["unet/tu-resnet18d/1", "fpn/timm-efficientnet-b0/2"]


@torch.no_grad()
def write(folder: Path, case: str, image: torch.Tensor) -> None:
    """Writes the names and shapes of a network's tensors, and every fifth logit."""
    name, encoder, classes = case.split("/")
    model = NETWORKS[name](encoder, encoder_weights=None, classes=int(classes))
    state = model.state_dict()
    shapes = {key: tuple(x.shape) for key, x in state.items() if not key.endswith("num_batches_tracked")}
    for key, shape in shapes.items():
        known = key.replace("running_mean", "_mean").replace("running_var", "_variance")
        state[key] = torch.from_numpy(detinit.weight(known, shape))
    model.load_state_dict(state)
    logits = model.eval()(image).numpy().transpose(0, 2, 3, 1)
    tensors = np.array([f"{key} {','.join(map(str, shape))}" for key, shape in shapes.items()])
    file = folder / f"{name}_{encoder}.npz"
    np.savez_compressed(file, tensors=tensors, logits=logits[:, ::5, ::5], spread=np.float32(logits.std()))


def main() -> None:
    """Writes all files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="network/encoder/classes")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    image = torch.from_numpy(np.ascontiguousarray(detinit.image("smp", 1, *SIZE).transpose(0, 3, 1, 2)))
    for case in options.cases or CASES:
        write(options.folder, case, image)


if __name__ == "__main__":
    main()
