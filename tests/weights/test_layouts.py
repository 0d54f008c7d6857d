"""The layouts of released self-supervised ResNet-50s: all 265 tensors of the trained encoder, and no other's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rsseg_tf.backbones import resnet50
from rsseg_tf.weights import match_names, resnet_names

NAMES = resnet_names([variable.path for variable in resnet50().weights])
POSITIONS = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def torch_name(name: str) -> str:
    head, _, last = name.rpartition(".")
    return f"{head}.{ {'_mean': 'running_mean', '_variance': 'running_var'}.get(last, last) }"


def listed(name: str) -> str:
    first, _, rest = name.partition(".")
    return f"{POSITIONS[first]}.{rest}"


# Prefix, how the rest is spelled, and prefixes of encoders that follow by a moving average.
LAYOUTS: dict[str, tuple[str, Callable[[str], str], tuple[str, ...]]] = {
    "moco": ("module.encoder_q.", torch_name, ("module.encoder_k.",)),
    "simsiam": ("module.encoder.", torch_name, ()),
    "swav": ("module.", torch_name, ()),
    "swav, extracted": ("", torch_name, ()),
    "densecl": ("", torch_name, ()),
    "densecl, raw": ("backbone.", torch_name, ("encoder_k.0.",)),
    "pixpro": ("module.encoder.", torch_name, ("module.encoder_k.",)),
    "mmselfsup": ("backbone.", torch_name, ()),
    "PASSL moco": ("encoder_q.0.", str, ("encoder_k.0.",)),
    "PASSL pixpro": ("backbone.", str, ("encoder_k.",)),
    "PASSL simsiam": ("encoder.", str, ()),
    "PASSL moco_byol": ("online_network.encoder.", listed, ("target_network.encoder.",)),
    "PASSL 2023 swav": ("res_model.encoder.", str, ()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_265_tensors_of_the_trained_encoder_are_found(layout: str) -> None:
    prefix, spell, followers = LAYOUTS[layout]
    tensors = {f"{prefix}{spell(name)}": np.array([float(i)]) for i, name in enumerate(NAMES)}
    decoys = {f"{follower}{spell(name)}": np.array([-1.0]) for follower in followers for name in NAMES}
    heads = {f"{prefix}fc.0.weight": np.zeros(1), "module.prototypes.weight": np.zeros(1)}
    found, rest = match_names({**decoys, **tensors, **heads}, NAMES)
    assert list(found) == list(NAMES) and len(found) == 265
    assert [float(array[0]) for array in found.values()] == list(range(265))
    assert set(rest) == {*decoys, *heads}


@pytest.mark.parametrize("layout", ["moco", "PASSL moco_byol"])
def test_a_tensor_that_is_missing_is_not_taken_from_the_follower(layout: str) -> None:
    prefix, spell, followers = LAYOUTS[layout]
    tensors = {f"{prefix}{spell(name)}": np.zeros(1) for name in list(NAMES)[1:]}
    decoys = {f"{followers[0]}{spell(name)}": np.zeros(1) for name in NAMES}
    found, _ = match_names({**decoys, **tensors}, NAMES)
    assert set(NAMES) - set(found) == {"conv1.weight"}
