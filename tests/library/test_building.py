"""Networks, losses and data of a config that is a file or a mapping, for `fit`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rsseg_tf
from rsseg_tf.errors import ConfigError, DataError
from tests.fixtures.checkpoints import write_checkpoint
from tests.fixtures.configs import tiny_config, use_tiny_backbone


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)


def test_a_config_is_a_file_or_a_mapping(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    x, y = next(iter(rsseg_tf.training_dataset(config)))
    for source in (tmp_path / "tiny.yml", str(tmp_path / "tiny.yml"), {"base": str(tmp_path / "tiny.yml")}):
        assert rsseg_tf.build_model(source).input_shape == (None, None, None, 3)
        assert rsseg_tf.compile_options(source)["loss"].keys() == config.loss.keys()
        same_x, same_y = next(iter(rsseg_tf.training_dataset(source)))
        np.testing.assert_array_equal(same_x, x)
        np.testing.assert_array_equal(same_y["main"], y["main"])
        assert len(list(rsseg_tf.validation_dataset(source))) == len(list(rsseg_tf.validation_dataset(config)))
    with pytest.raises(ConfigError, match=r"nowhere\.yml does not exist"):
        rsseg_tf.training_dataset("nowhere.yml")
    with pytest.raises(DataError, match="There is no sample"):
        rsseg_tf.training_dataset([], config.dataset.spec)


def test_weights_that_the_config_names(tmp_path: Path) -> None:
    checkpoint, _ = write_checkpoint(tmp_path / "before")
    named = tiny_config(tmp_path, f"model.pretrained={checkpoint}")
    expected = rsseg_tf.load_model(checkpoint).keras_model
    lines: list[str] = []
    built, random = (rsseg_tf.build_model(named, pretrained=value, notify=lines.append) for value in (True, False))
    assert len(lines) == 1 and lines[0].startswith("model: ")
    kernels = [
        [np.asarray(variable) for variable in model.trainable_variables if variable.name == "kernel"]
        for model in (expected, built, random)
    ]
    for wanted, found, other in zip(*kernels, strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert not np.array_equal(other, wanted)
