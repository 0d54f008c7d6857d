"""Runs the original's models on values that follow from names, and writes what they compute.

To be run in an environment of its own, with Paddle (see ../README.md):

    PADDLESEG=/path/to/PaddleSeg python tests/parity/original/generate.py FOLDER [MODEL...] [--prefix TEXT] [--size H W]

Writes FOLDER/<model>.json (names and shapes of all tensors, checksums, losses, gradients) and FOLDER/<model>.npz (main
logits and classes), which `python -m benchmarks.parity FOLDER` compares with ours.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
CHECKOUT = Path(os.environ.get("PADDLESEG", "PaddleSeg"))
BENCHMARK = CHECKOUT / "contrib" / "RSSegBenchmark"
for folder in (ROOT, BENCHMARK, CHECKOUT):
    sys.path.insert(0, str(folder))

import backbones  # noqa: E402, F401  registers the benchmark's own ResNets
import paddle  # noqa: E402
import paddleseg  # noqa: E402
from paddleseg.cvlibs import Config, SegBuilder  # noqa: E402

from tests.parity import detinit  # noqa: E402

CONFIGS = {
    "fcn_hrnet_w18": "fcn/fcn_hrnet_w18_isaid_512x512_80k",
    "fcn_resnet50": "fcn/fcn_resnet50_isaid_512x512_80k",
    "fcn_resnet50_vd": "fcn/fcn_resnet50_vd_isaid_512x512_80k",
    "deeplabv3p_resnet50": "deeplabv3p/deeplabv3p_resnet50_isaid_512x512_80k",
    "deeplabv3p_resnet50_vd": "deeplabv3p/deeplabv3p_resnet50_vd_isaid_512x512_80k",
    "pspnet_resnet50": "pspnet/pspnet_resnet50_isaid_512x512_80k",
    "pspnet_resnet50_vd": "pspnet/pspnet_resnet50_vd_isaid_512x512_80k",
    "upernet_resnet50": "upernet/upernet_resnet50_isaid_512x512_80k",
    "upernet_resnet50_vd_vaihingen": "upernet/upernet_resnet50_vd_vaihingen_512x512_80k",
    "danet_resnet50": "danet/danet_resnet50_isaid_512x512_80k",
    "danet_resnet50_vd": "danet/danet_resnet50_vd_isaid_512x512_80k",
    "ocrnet_resnet50": "ssl/ocrnet_pixpro_imgnet_resnet50_isaid_512x512",
    "hrnet_w48_contrast": "hrnet/hrnet_w48_isaid_512x512_80k",
}
GRADIENTS = 12  # parameters whose gradient is kept


def build(name: str) -> SegBuilder:
    """Builds model and losses of a config, without the weights that it would download."""
    config = Config(str(BENCHMARK / "configs" / f"{CONFIGS[name]}.yml"))
    model = config.dic["model"]
    model["pretrained"] = model["backbone"]["pretrained"] = None
    model["backbone"].pop("ssl_pretrained", None)
    if model["type"] == "HRNetW48Contrast":  # an argument was renamed, the configs were not
        model["bb_channels"] = model.pop("in_channels")
    return SegBuilder(config)


def checksum(value: Any) -> dict[str, Any]:
    """Statistics, and the first and last values."""
    flat = np.asarray(value, np.float64).ravel()
    return {
        "shape": list(np.shape(value)),
        "mean": float(flat.mean()),
        "absmean": float(np.abs(flat).mean()),
        "std": float(flat.std()),
        "min": float(flat.min()),
        "max": float(flat.max()),
        "first": flat[:4].tolist(),
        "last": flat[-4:].tolist(),
    }


def image(key: str, count: int, height: int, width: int) -> paddle.Tensor:
    """Made-up images (count, 3, height, width)."""
    return paddle.to_tensor(detinit.image(key, count, height, width).transpose(0, 3, 1, 2))


def evaluate(model: Any, sizes: list[tuple[int, int]]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Logits and features of one image of each size."""
    model.eval()
    facts, arrays = {}, {}
    with paddle.no_grad():
        for height, width in sizes:
            key = f"eval_{height}x{width}"
            x = image(key, 1, height, width)
            outputs = [output.numpy() for output in model(x)]
            facts[key] = {
                "backbone": [checksum(feature) for feature in model.backbone(x)],
                "outputs": [checksum(output) for output in outputs],
            }
            arrays[f"{key}_out0"] = outputs[0]
            arrays[f"{key}_argmax"] = outputs[0].argmax(1).astype(np.uint8)
    return facts, arrays


def train_step(model: Any, losses: dict[str, Any], num_classes: int) -> dict[str, Any]:
    """Losses, gradients and the change of running statistics in one step, with dropout off."""
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.Dropout | paddle.nn.Dropout2D):
            layer.p = 0.0
    paddle.randperm = lambda count, *_, **__: paddle.arange(count)  # the pixel contrast takes pixels in order
    label = paddle.to_tensor(detinit.label("train", 2, 128, 128, num_classes).astype("int64"))
    statistics = {
        name: value.numpy().copy()
        for name, value in model.state_dict().items()
        if name.endswith(("_mean", "_variance"))
    }
    model.train()
    outputs = model(image("train", 2, 128, 128))
    values: list[Any] = []
    for output, loss, weight in zip(outputs, losses["types"], losses["coef"], strict=True):
        value = loss(output, label)
        values += [weight * part for part in (value if isinstance(value, list) else [value])]
    total = sum(values)
    total.backward()
    parameters = {name: value for name, value in model.named_parameters() if not value.stop_gradient}
    with_gradient = [name for name, value in parameters.items() if value.grad is not None]
    kept = sorted({with_gradient[i * (len(with_gradient) - 1) // (GRADIENTS - 1)] for i in range(GRADIENTS)})
    after = model.state_dict()
    moved = [*statistics][:2] + [*statistics][-2:]
    return {
        "loss": float(total),
        "loss_list": [float(value) for value in values],
        "grad": {name: checksum(parameters[name].grad.numpy()) for name in kept},
        "no_grad": [name for name, value in parameters.items() if value.grad is None],
        "delta": {name: checksum(after[name].numpy() - statistics[name]) for name in moved},
    }


def generate(name: str, folder: Path, prefix: str, sizes: list[tuple[int, int]]) -> None:
    """Writes the files of one model."""
    builder = build(name)
    model = builder.model
    state = {key: value for key, value in model.state_dict().items()}
    model.set_state_dict({key: detinit.weight(key, tuple(value.shape), prefix) for key, value in state.items()})
    facts, arrays = evaluate(model, sizes)
    num_classes = int(arrays[f"eval_{sizes[0][0]}x{sizes[0][1]}_out0"].shape[1])
    statistics = sum(int(np.prod(value.shape)) for key, value in state.items() if key.endswith(("_mean", "_variance")))
    values = sum(int(np.prod(value.shape)) for value in state.values())
    result = {
        "name": name,
        "config": f"{CONFIGS[name]}.yml",
        "prefix": prefix,
        "paddle": paddle.__version__,
        "paddleseg": paddleseg.__version__,
        "numpy": np.__version__,
        "num_classes": num_classes,
        "trainable": values - statistics,
        "state_values": values,
        "state": [[key, list(value.shape), "float32"] for key, value in state.items()],
        "eval": facts,
        "train": {"steps": [train_step(model, builder.loss, num_classes)]},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result), "utf-8")
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    print(f"{name}: {values} values, loss {result['train']['steps'][0]['loss']}", flush=True)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Write what the original computes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", default=[*CONFIGS], help=f"of {', '.join(CONFIGS)}; default: all")
    parser.add_argument("--prefix", default="", help="put before every name, for other weights")
    parser.add_argument(
        "--size", nargs=2, type=int, action="append", metavar=("H", "W"), help="of an image; repeatable"
    )
    arguments = parser.parse_args()
    sizes = [tuple(size) for size in arguments.size or [(128, 128), (97, 131)]]
    for name in arguments.models:
        generate(name, arguments.folder, arguments.prefix, sizes)


if __name__ == "__main__":
    main()
