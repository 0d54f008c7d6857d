"""The model zoo page is what its script makes, and its numbers are those of our models."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import keras
import pytest

from rsseg_tf.assets import shipped_configs

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def zoo() -> Any:
    spec = importlib.util.spec_from_file_location("make_model_zoo", DOCS / "make_model_zoo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(zoo: Any) -> None:
    numbers = json.loads((DOCS / "model_zoo.json").read_text("utf-8"))
    assert (DOCS / "model_zoo.md").read_text("utf-8") == zoo.page(numbers)


def test_the_list_of_configs_shows_the_same_figures(zoo: Any) -> None:
    numbers = json.loads((DOCS / "model_zoo.json").read_text("utf-8"))
    assert json.loads(zoo.FIGURES.read_text("utf-8")) == zoo.figures(numbers)
    assert sorted(zoo.figures(numbers)) == shipped_configs(), "python docs/make_model_zoo.py --measure counts new ones"


def test_measured_scores_are_those_of_the_benchmarks(zoo: Any) -> None:
    text = (DOCS.parent / "benchmarks" / "README.md").read_text("utf-8")
    found = {
        "unet/unet_efficientnet_lite0_dubai_256x256_cpu": r"the shipped config \| 500 \| \d+ \| 3 \| ([\d.]+)",
        "fcn/fcn_hrnet_w18_dubai_256x256_cpu": r"\| FCN-HRNet_W18, 500 steps \| ([\d.]+)",
        "unet/unet_efficientnet_lite0_synthetic_256x256_quick": r"\| `rsseg-tf quickstart` \| \d+ \| ([\d.]+)",
        "deeplabv3plus/deeplabv3plus_resnet18_vd_synthetic_256x256_quick": r"time for ([\d.]+), with cars",
    }
    assert zoo.MEASURED.keys() == found.keys()
    for name, pattern in found.items():
        (score,) = re.findall(pattern, text)
        assert float(score) == zoo.MEASURED[name], name


def test_parameters_of_a_config_that_is_not_on_the_page(zoo: Any) -> None:
    name = "lraspp/lraspp_mobilenet_v3_small_dubai_256x256_cpu"
    assert zoo.measure_parameters(name) == json.loads((DOCS / "model_zoo.json").read_text("utf-8"))[name]


def test_every_config_of_80k_iterations_is_on_it(zoo: Any) -> None:
    long = [name for name in shipped_configs() if name.endswith("_80k.yml")]
    for_devices = {name for name in long if name.startswith("lraspp/")}
    small = {name for name in long if name.startswith(("unet/", "segformer/"))}
    of_the_benchmark = {n for n in shipped_configs() if any(f"_{d}_" in n for d in ("isaid", "potsdam", "vaihingen"))}
    on_the_page = [f"{name}.yml" for name in zoo.every_config()]
    assert len(on_the_page) == len(set(on_the_page)) and set(on_the_page) == of_the_benchmark | for_devices | small
    assert {f"{name}.yml" for name in zoo.FOR_DEVICES} == for_devices
    assert {f"{name}.yml" for name in zoo.SMALL_MODELS} == small
    rows = [len(rows) for rows in (*zoo.BASELINES.values(), *zoo.SELF_SUPERVISED.values())]
    assert rows == [9, 5, 4, 12, 6]


def test_operations_are_counted_as_described(zoo: Any) -> None:
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same")(image)
    x = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    model = keras.Model(image, keras.layers.Conv2D(5, 1)(x))
    per_pixel = 8 * 3 * 9 + 8 * 9 + 5 * 8
    assert zoo.count_operations(model, 32) == 2 * 16 * 16 * per_pixel


@pytest.mark.slow
def test_a_row_is_what_is_measured(zoo: Any) -> None:
    name = "fcn/fcn_hrnet_w18_isaid_512x512_80k"
    assert zoo.measure(name) == json.loads((DOCS / "model_zoo.json").read_text("utf-8"))[name]
