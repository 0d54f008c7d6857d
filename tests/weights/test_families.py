"""A file of another project is told by the names of its tensors, and its family finds their places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.build import build_model
from rsseg_tf.config.zoo import ResNet, Row
from rsseg_tf.errors import WeightsError
from rsseg_tf.weights import families
from rsseg_tf.weights.families import Family, Tensors, Translation, recognise, without_wrapper
from rsseg_tf.weights.pretrained import load_pretrained
from tests.fixtures.configs import tiny_config
from tests.fixtures.weight_files import write_torch

MODEL = "model={name: fcn, channels: 8, backbone: {name: BACKBONE, pretrained: SOURCE}}"


def translate(tensors: Tensors, row: Row, paths: Sequence[str]) -> Translation:
    """A project that knows resnet18 alone, calls a variable `toy.` and its path, and stores twice its value."""
    wanted = paths if isinstance(row, ResNet) else ()
    halved = {name: array / 2 for name, array in tensors.items()}
    return Translation({f"toy.{path}": path for path in wanted}, halved)


TOY = Family("toy project", lambda tensors: any(n.startswith("toy.") for n in tensors), lambda _: "a toy", translate)


@pytest.fixture(autouse=True)
def toy_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILIES", (TOY, *families.FAMILIES))


def source(tmp_path: Path, *, wrapper: str = "", without: str = "-") -> tuple[Path, dict[str, np.ndarray]]:
    """Returns a file of the toy project and the values that its variables should get, by path."""
    model = build_model(tiny_config(tmp_path, MODEL.replace("BACKBONE", "resnet18").replace("SOURCE", "null")))
    rng = np.random.default_rng(3)
    values = {
        variable.path: rng.normal(size=variable.shape).astype(np.float32)
        for variable in model.weights
        if variable.path.startswith("st") and not variable.path.startswith(without)
    }
    stored = {path: value.transpose(3, 2, 0, 1) if value.ndim == 4 else value for path, value in values.items()}
    tensors = {f"{wrapper}toy.{path}": value * 2 for path, value in stored.items()}
    return write_torch(tmp_path / "toy.pth", tensors | {f"{wrapper}toy.fc": np.zeros(3, np.float32)}), values


@pytest.mark.parametrize("wrapper", ["", "module.", "module.model."])
def test_its_tensors_are_prepared_and_named_by_the_family(tmp_path: Path, wrapper: str) -> None:
    file, values = source(tmp_path, wrapper=wrapper)
    config = tiny_config(tmp_path, MODEL.replace("BACKBONE", "resnet18").replace("SOURCE", str(file)))
    model = build_model(config)
    (report,) = load_pretrained(model, config)
    assert (report.tensors, report.skipped) == (len(values), ("toy.fc",))
    for variable in model.weights:
        if variable.path in values:
            np.testing.assert_array_equal(variable.numpy(), values[variable.path], err_msg=variable.path)


def test_a_tensor_that_is_missing_is_an_error(tmp_path: Path) -> None:
    file, _ = source(tmp_path, without="stage4_block2_conv2")
    config = tiny_config(tmp_path, MODEL.replace("BACKBONE", "resnet18").replace("SOURCE", str(file)))
    with pytest.raises(WeightsError, match="5 tensors missing: toy.stage4_block2_conv2"):
        load_pretrained(build_model(config), config)


def test_a_family_that_has_no_such_model_says_what_the_file_holds(tmp_path: Path) -> None:
    file, _ = source(tmp_path)
    config = tiny_config(tmp_path, MODEL.replace("BACKBONE", "resnet18_vd").replace("SOURCE", str(file)))
    with pytest.raises(WeightsError, match="not for model.backbone, which is resnet18_vd: it holds a toy, as toy proj"):
        load_pretrained(build_model(config), config)


def test_wrappers_are_taken_off_only_where_all_names_have_them() -> None:
    array = np.zeros(1)
    assert list(without_wrapper({"module.model.a": array, "module.model.b": array})) == ["a", "b"]
    assert list(without_wrapper({"module.a": array, "b": array})) == ["module.a", "b"]
    assert not without_wrapper({}) and recognise({"unknown": array}) is None
