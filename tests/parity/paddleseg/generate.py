"""Runs PaddleSeg's SegFormer and U-Net on values that follow from names, and writes what it computes.

To be run from the checkout's root in an environment of its own, with Paddle (see ../README.md; the file here comes from
paddlepaddle 3.3.1 and PaddleSeg's develop branch, on a CPU):

    PYTHONPATH=.:.parity/PaddleSeg .parity/bin/python tests/parity/paddleseg/generate.py

It writes the names and shapes of SegFormer-B0's tensors, some values of its features, and of its logits in evaluation
and in training without dropout, and the gradients of some weights. `tests/parity/test_paddleseg_segformer.py` compares
them with ours. The same of U-Net, with the features of its encoder in place of a backbone's, is for
`tests/parity/test_paddleseg_unet.py`. `--all` prints the numbers of parameters of B0 to B5.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddleseg.models import SegFormer, UNet, backbones

from tests.parity import detinit

CLASSES, EMBEDDING, SIZE = 7, 256, (97, 131)
GRADIENTS = (
    "linear_pred.weight",
    "linear_fuse._conv.weight",
    "backbone.block1.0.attn.kv.weight",
    "backbone.patch_embed1.proj.weight",
)

GRADIENTS_OF_UNET = (
    "cls.weight",
    "decode.up_sample_list.0.double_conv.0._conv.weight",
    "encode.down_sample_list.3.2._conv.weight",
    "encode.double_conv.0._conv.weight",
)


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Value of a tensor in Paddle's layout, in which linear layers are (in, out)."""
    known = name.replace("_variance", "running_var")
    return (
        detinit.transformer_weight(known, shape[::-1]).T
        if len(shape) == 2
        else detinit.transformer_weight(known, shape)
    )


def build(size: int) -> Any:
    """SegFormer on MiT-B`size`, filled, without dropout."""
    backbone = getattr(backbones, f"MixVisionTransformer_B{size}")()
    model = SegFormer(CLASSES, backbone, EMBEDDING)
    model.set_state_dict({key: value(key, tuple(x.shape)) for key, x in model.state_dict().items()})
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.Dropout | paddle.nn.Dropout2D):
            layer.p = 0.0
        if type(layer).__name__ == "DropPath":
            layer.drop_prob = 0.0
    return model


def build_unet(*, align_corners: bool) -> Any:
    """U-Net, filled; its classifier has two names."""
    model = UNet(CLASSES, align_corners=align_corners)
    names = {key: "cls." + key[5:] if key.startswith("conv.") else key for key in model.state_dict()}
    model.set_state_dict({key: detinit.weight(names[key], tuple(x.shape)) for key, x in model.state_dict().items()})
    return model


def image(key: str, count: int) -> paddle.Tensor:
    """Made-up images (count, 3, height, width)."""
    return paddle.to_tensor(detinit.image(key, count, *SIZE).transpose(0, 3, 1, 2))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Write what PaddleSeg's SegFormer computes.")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--all", action="store_true", help="print the numbers of parameters of B0 to B5")
    arguments = parser.parse_args()
    if arguments.all:
        for size in range(6):
            state = getattr(backbones, f"MixVisionTransformer_B{size}")().state_dict()
            print(f"mit_b{size}: {sum(int(np.prod(x.shape)) for x in state.values())}", flush=True)
    model = build(0)
    shapes = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    arrays: dict[str, Any] = {"tensors": np.array([f"{k} {','.join(map(str, v))}" for k, v in shapes.items()])}
    model.eval()
    with paddle.no_grad():
        for name, x in zip(("c2", "c3", "c4", "c5"), model.backbone(image("encoders", 1)), strict=True):
            feature = x.numpy().transpose(0, 2, 3, 1)
            arrays |= {name: feature[:, ::3, ::3, ::8], f"{name}_spread": np.float32(feature.std())}
        logits = model(image("encoders", 1))[0].numpy().transpose(0, 2, 3, 1)
        arrays |= {"logits": logits[:, ::3, ::3], "logits_spread": np.float32(logits.std())}
    model.train()
    logits = model(image("train", 2))[0]
    weights = paddle.to_tensor(detinit.uniform("gradient", (2, CLASSES, *SIZE), -1.0, 1.0))
    (logits * weights).sum().backward()
    logits = logits.numpy().transpose(0, 2, 3, 1)
    arrays |= {"train": logits[:, ::3, ::3], "train_spread": np.float32(logits.std())}
    parameters = dict(model.named_parameters())
    arrays |= {f"grad {name}": parameters[name].grad.numpy()[::4, ::4] for name in GRADIENTS}
    np.savez_compressed(arguments.folder / "segformer_b0.npz", **arrays)
    np.savez_compressed(arguments.folder / "unet.npz", **of_unet())


def of_unet() -> dict[str, Any]:
    """What U-Net computes."""
    arrays: dict[str, Any] = {}
    for align_corners in (False, True):
        model = build_unet(align_corners=align_corners)
        model.eval()
        with paddle.no_grad():
            logits = model(image("unet", 1))[0].numpy().transpose(0, 2, 3, 1)
        key = f"logits align_corners={align_corners}"
        arrays |= {key: logits[:, ::3, ::3], f"{key} spread": np.float32(logits.std())}
    model = build_unet(align_corners=False)
    shapes = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    arrays["tensors"] = np.array([f"{k} {','.join(map(str, v))}" for k, v in shapes.items()])
    model.train()
    logits = model(image("train", 2))[0]
    weights = paddle.to_tensor(detinit.uniform("gradient", (2, CLASSES, *SIZE), -1.0, 1.0))
    (logits * weights).sum().backward()
    logits = logits.numpy().transpose(0, 2, 3, 1)
    arrays |= {"train": logits[:, ::3, ::3], "train spread": np.float32(logits.std())}
    parameters = dict(model.named_parameters())
    return arrays | {f"grad {name}": parameters[name].grad.numpy()[:16, :16] for name in GRADIENTS_OF_UNET}


if __name__ == "__main__":
    main()
