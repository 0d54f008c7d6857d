"""Runs networks of segmentation_models_pytorch on values that follow from names, and writes some of their logits.

To be run from the checkout's root in an environment of its own, with NumPy, torch and segmentation_models_pytorch (the
files here come from torch 2.14.1 and segmentation_models_pytorch 0.6.0, on a CPU):

    PYTHONPATH=. python tests/parity/smp/generate.py

`tests/parity/test_smp.py` compares them with ours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch

from tests.parity import detinit

CLASSES, SIZE = 5, (96, 160)
NETWORKS = {"unet": smp.Unet, "fpn": smp.FPN, "deeplabv3plus": smp.DeepLabV3Plus, "pspnet": smp.PSPNet}
ENCODERS = ("resnet18", "efficientnet-b0")


@torch.no_grad()
def main() -> None:
    """Writes all files."""
    image = np.ascontiguousarray(detinit.image("smp", 1, *SIZE).transpose(0, 3, 1, 2))
    for name, build in NETWORKS.items():
        for encoder in ENCODERS:
            model = build(encoder, encoder_weights=None, classes=CLASSES)
            state = model.state_dict()
            shapes = {key: tuple(x.shape) for key, x in state.items() if not key.endswith("num_batches_tracked")}
            for key, shape in shapes.items():
                known = key.replace("running_mean", "_mean").replace("running_var", "_variance")
                state[key] = torch.from_numpy(detinit.weight(known, shape))
            model.load_state_dict(state)
            logits = model.eval()(torch.from_numpy(image)).numpy().transpose(0, 2, 3, 1)
            tensors = np.array([f"{key} {','.join(map(str, shape))}" for key, shape in shapes.items()])
            file = Path(__file__).parent / f"{name}_{encoder}.npz"
            np.savez_compressed(file, tensors=tensors, logits=logits[:, ::5, ::5], spread=np.float32(logits.std()))


if __name__ == "__main__":
    main()
