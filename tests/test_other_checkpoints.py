"""What docs/other_checkpoints.md says about files of mmsegmentation can be written into a config."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from rsseg_tf.config import load_config
from rsseg_tf.config.zoo import FCN, Model, SegmentorSection
from rsseg_tf.weights.families.mmsegmentation import MMSEGMENTATION

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "other_checkpoints.md").read_text("utf-8")
MODELS = dict(re.findall(r"^\| ([\w-]+) \| `(\{name: .+\})` \|$", PAGE, re.MULTILINE))
RELEASED = re.findall(
    r"^\| ([\w-]+) \| [\d.]+ \| \[.+\.pth\]\(https://download\.openmmlab\.com/.+\.pth\) \|$", PAGE, re.M
)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_a_section_that_agrees_with_mmsegmentations_configs(name: str) -> None:
    section = TypeAdapter(Model).validate_python(yaml.safe_load(MODELS[name]))
    assert isinstance(section, SegmentorSection)
    strides = {"pspnet": "(1, 2, 1, 1)", "deeplabv3plus": "(1, 2, 1, 1)", "upernet": "(1, 2, 2, 2)"}
    text = f"strides={strides.get(name.split('_')[0])}, dilations=(1, 12, 24, 36), pool_scales=(1, 2, 3, 6)"
    assert MMSEGMENTATION.agrees(section, f"{text}, align_corners=False") == []
    assert getattr(section.backbone if isinstance(section, FCN) else section, "variant", None) == "mmsegmentation"


def test_the_example_normalises_as_mmsegmentation_does(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```yaml\n(dataset:\n  name: potsdam\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.yml").write_text(example, "utf-8")
    config = load_config(tmp_path / "mine.yml")
    assert MMSEGMENTATION.normalisation == (config.dataset.spec.mean, config.dataset.spec.std)
    assert sorted(config.loss) == ["aux", "main"] and config.model.name == "pspnet"


def test_every_released_file_has_a_model() -> None:
    assert len(RELEASED) == 34 and len(MODELS) == 12
    for config in RELEASED:
        assert config.split("_4xb")[0] in MODELS
