"""Runs mmsegmentation's networks on values that follow from names, and writes what they compute.

To be run from the checkout's root in an environment of its own (Python 3.11; the files here come from torch 2.14.1,
mmengine 0.10.7, mmcv-lite 2.2.0 and mmsegmentation 1.2.2, on a CPU):

    python3 -m venv .mmseg
    .mmseg/bin/pip install torch mmengine mmcv-lite mmsegmentation==1.2.2 ftfy regex
    PYTHONPATH=. .mmseg/bin/python tests/parity/mmsegmentation/generate.py

The networks are those of the configs in mmsegmentation's wheel. Other configs, values and sizes:

    … generate.py --folder OUT --prefix other/ --size 200 168 pspnet/pspnet_r101-d8_4xb4-80k_potsdam-512x512.py

With `--folder` a checkpoint is written beside the outputs, as mmengine writes it, for `rsseg-tf convert`.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.parity import detinit

FOLDER = Path(__file__).parent
SIZE = (97, 131)
CASES = {
    "pspnet": "pspnet/pspnet_r50-d8_4xb4-80k_potsdam-512x512.py",
    "deeplabv3plus": "deeplabv3plus/deeplabv3plus_r18-d8_4xb4-80k_loveda-512x512.py",
    "upernet": "upernet/upernet_r18_4xb4-80k_ade20k-512x512.py",
    "fcn_hrnet": "hrnet/fcn_hr18s_4xb4-80k_isaid-896x896.py",
}


def import_mmsegmentation() -> Path:
    """Imports mmsegmentation without mmcv's compiled operations, which these networks have none of.

    Returns:
        The folder of its configs.
    """

    class Missing:
        """Stands in for an operation."""

    def attribute(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Missing,), {})

    def module(name: str) -> None:
        stand_in = types.ModuleType(name)
        stand_in.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        stand_in.__path__ = []
        stand_in.__getattr__ = attribute  # type: ignore[method-assign]
        sys.modules[name] = stand_in

    import mmcv

    mmcv.__version__ = "2.1.0"  # mmsegmentation 1.2.2 refuses later ones
    for name in ("mmcv._ext", "mmcv.ops"):
        module(name)
    import mmseg
    from mmseg.utils import register_all_modules

    register_all_modules()
    return Path(mmseg.__file__).parent / ".mim" / "configs"


def build(config: Path, num_classes: int | None = None) -> tuple[torch.nn.Module, str, dict[str, Any]]:
    """Returns the network of a config, the config's text, and the classes and colours of its dataset."""
    from mmengine import Config
    from mmengine.model import revert_sync_batchnorm
    from mmseg.registry import DATASETS, MODELS

    parsed = Config.fromfile(str(config))
    model = parsed.model.copy()
    model.pretrained = None
    for head in ("decode_head", "auxiliary_head"):
        if num_classes is not None and head in model:
            model[head].num_classes = num_classes
    meta = DATASETS.get(parsed.dataset_type).METAINFO
    facts = {"classes": tuple(meta["classes"]), "palette": meta["palette"]}
    return revert_sync_batchnorm(MODELS.build(model)).eval(), parsed.pretty_text, facts


def fill(model: torch.nn.Module, prefix: str = "") -> None:
    """Sets every tensor from its name; statistics are called as in the benchmark's files."""
    state = model.state_dict()
    for name, tensor in state.items():
        if not name.endswith("num_batches_tracked"):
            known = name.replace("running_mean", "_mean").replace("running_var", "_variance")
            state[name] = torch.from_numpy(detinit.weight(known, tuple(tensor.shape), prefix))
    model.load_state_dict(state)


def logits(model: torch.nn.Module, size: tuple[int, int], prefix: str = "") -> dict[str, np.ndarray]:
    """Returns the logits of each head, (1, height, width, classes), at the image's size as in prediction."""
    pixels = detinit.image(f"{prefix}eval_{size[0]}x{size[1]}", 1, *size)
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    meta = [{"img_shape": size}]
    with torch.no_grad():
        features = model.extract_feat(image)
        heads = {"main": model.decode_head}
        if model.with_auxiliary_head:
            heads["aux"] = model.auxiliary_head
        found = {name: head.predict(features, meta, {}) for name, head in heads.items()}
    return {name: value.numpy().transpose(0, 2, 3, 1) for name, value in found.items()}


def main() -> None:
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", help="configs of mmsegmentation; by default those of the tests")
    parser.add_argument("--folder", type=Path, help="where whole outputs and checkpoints go")
    parser.add_argument("--prefix", default="", help="another one, other values")
    parser.add_argument("--size", type=int, nargs=2, action="append", help="height and width of an image")
    parser.add_argument("--no-classes", action="store_true", help="whether checkpoints leave their classes out")
    options = parser.parse_args()
    configs = import_mmsegmentation()
    if options.folder is None:
        facts = {name: _case(configs / config, name) for name, config in CASES.items()}
        (FOLDER / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    for config in options.configs:
        model, text, facts = build(configs / config)
        fill(model, options.prefix)
        stem = options.folder / Path(config).stem
        meta = {"cfg": text} | ({} if options.no_classes else {"dataset_meta": facts})
        torch.save({"meta": meta, "state_dict": model.state_dict()}, f"{stem}.pth")
        sizes = [tuple(size) for size in options.size or [SIZE]]
        outputs = {size: logits(model, size, options.prefix) for size in sizes}
        named = {f"{head}_{h}x{w}": value for (h, w), heads in outputs.items() for head, value in heads.items()}
        np.savez(f"{stem}.npz", **named)


def _case(config: Path, name: str) -> dict[str, Any]:
    """Writes every eighth logit in both directions and the shapes of all tensors; returns what else is compared."""
    model, _, _ = build(config, 6 if name == "upernet" else None)
    fill(model)
    found = logits(model, SIZE)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    arrays = {head: value[:, ::8, ::8] for head, value in found.items()}
    arrays["shapes"] = np.frombuffer(json.dumps(shapes).encode(), np.uint8)
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
    return {
        "config": CASES[name],
        "classes": model.decode_head.num_classes,
        "trainable": sum(value.numel() for value in model.parameters()),
        "std": {head: float(value.std()) for head, value in found.items()},
    }


if __name__ == "__main__":
    main()
