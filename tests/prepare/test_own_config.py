from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.assets import find_config
from rsseg_tf.config import Config, load_config
from rsseg_tf.config.named_weights import weights_for
from rsseg_tf.datasets.spec import custom_spec
from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import read_list
from rsseg_tf.prepare import own_config
from rsseg_tf.prepare.output import PreparedFolder, read_dataset_json, staged_output
from rsseg_tf.prepare.own_config import own_config_path, write_own_config
from rsseg_tf.prepare.tile_statistics import TileStatistics, measure_tiles
from rsseg_tf.rasters.images import read_image, read_label, write_png
from rsseg_tf.rasters.statistics import Moments
from rsseg_tf.training import train
from tests.fixtures.datasets import CLASSES, at, ids, write_sound, write_tiff

WEIGHTS = own_config._is_installed(weights_for("efficientnet_lite0")[0])


def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_config, "_is_installed", lambda weights: False)


def test_weights_that_no_package_brings_are_not_installed() -> None:
    rows = [row for row in weights_for("resnet50") if not row.package]
    assert len(rows) > 1  # from addresses, and presets
    assert not any(own_config._is_installed(row) for row in rows)


def statistics(**changes: object) -> TileStatistics:
    """Those of the tiles of Dubai, nearly."""
    usual = {
        "tiles": 486, "bands": 3, "dtype": "uint8", "shortest": 512, "longest": 512, "side": 512, "max_value": 255.0,
        "moments": (Moments(10, 100.0, 1e4, 0, 255),) * 3, "pixels": (60_000_000, 60_000_000, 5_844_974),
        "left_out": 1_557_010, "ground_resolution": None,
    }  # fmt: skip
    return TileStatistics(**(usual | changes))  # type: ignore[arg-type]


def config_text(tmp_path: Path, tiles: TileStatistics, trains_on: own_config.TrainsOn = "cpu") -> str:
    spec = custom_spec(
        tmp_path.name, CLASSES, bands=tiles.bands, max_value=tiles.max_value, mean=tiles.mean, std=tiles.std,
        gsd=tiles.ground_resolution,
    )  # fmt: skip
    return own_config._text(spec, tiles, trains_on, False)


def test_weights_that_no_package_brings_are_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = config_text(tmp_path, statistics())
    monkeypatch.setattr(own_config, "weights_for", lambda backbone: [*weights_for("resnet50"), *weights_for(backbone)])
    assert config_text(tmp_path, statistics()) == there
    monkeypatch.setattr(own_config, "weights_for", lambda backbone: weights_for("resnet50"))
    text = config_text(tmp_path, statistics())
    assert "backbone: {name: efficientnet_lite0}" in text
    assert "pretrained" not in text


def config_of(tmp_path: Path, tiles: TileStatistics, trains_on: own_config.TrainsOn = "cpu") -> Config:
    (tmp_path / "c.yml").write_text(config_text(tmp_path, tiles, trains_on), "utf-8")
    return load_config(tmp_path / "c.yml")


# === What the tiles hold ===


def test_pixels_without_a_class_count_nowhere(tmp_path: Path) -> None:
    root = write_sound(tmp_path, train=3)
    samples = read_list(root / "train.txt", root)
    found = measure_tiles(samples, CLASSES, workers=1)
    labels = [read_label(sample.label) for sample in samples if sample.label]
    used = np.concatenate(
        [read_image(sample.image)[label != 255] for sample, label in zip(samples, labels, strict=True)]
    )
    assert found.mean == pytest.approx(used.mean(axis=0) / 255) and found.std == pytest.approx(used.std(axis=0) / 255)
    assert found.pixels == tuple(sum(int((label == number).sum()) for label in labels) for number in range(3))
    assert found.left_out == 3 * 5
    assert (found.tiles, found.bands, found.dtype, found.max_value, found.ground_resolution) == (
        3,
        3,
        "uint8",
        255,
        None,
    )
    assert (found.shortest, found.longest, found.side) == (64, 64, 64)


def write_words(root: Path, dtype: str = "uint16", bands: int = 5, fill: float | None = None, train: int = 2) -> Path:
    """Writes tiles of more than eight bits with a place; a corner declares that it has no data."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", 1)):
        for number in range(count):
            pixels = rng.integers(200, 4000, (64, 64, bands)).astype(dtype)
            pixels[:4, :4] = 0
            if fill is not None:
                pixels[10:20, 10:20] = fill
            write_tiff(root / f"{split}_{number}.tif", pixels, nodata=0, **at(500_000, 2_800_000 - 64 * number))
            write_png(root / f"{split}_{number}.png", ids(number))
        lines = [f"{split}_{number}.tif {split}_{number}.png\n" for number in range(count)]
        (root / f"{split}.txt").write_text("".join(lines), "utf-8")
    return root


@pytest.mark.parametrize("fill", [None, 65535])
def test_the_unit_of_other_types_comes_from_the_data(tmp_path: Path, fill: float | None) -> None:
    root = write_words(tmp_path, fill=fill)
    samples = read_list(root / "train.txt", root)
    found = measure_tiles(samples, CLASSES, workers=1)
    assert found.max_value == 4000 and found.dtype == "uint16"
    assert found.ground_resolution == pytest.approx(0.5, rel=5e-4)  # UTM is shorter than the ground here
    used = []
    for sample in samples:
        pixels, label = read_image(sample.image), read_label(sample.label)  # type: ignore[arg-type]
        here = label != 255
        here[:4, :4] = False
        if fill is not None:
            here[10:20, 10:20] = False
        used.append(pixels[here])
    values = np.concatenate(used)
    assert found.mean == pytest.approx(values.mean(axis=0) / 4000)
    assert found.std == pytest.approx(values.std(axis=0) / 4000)


def test_a_fill_value_near_the_others_is_one_of_them(tmp_path: Path) -> None:
    """Full-range images of 16 bits are saturated at 65535, which is no unit above the type's own."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65535, (64, 64, 3)).astype(np.uint16)
    pixels[:10] = 65535
    write_tiff(tmp_path / "a.tif", pixels)
    write_png(tmp_path / "a.png", ids(0))
    (tmp_path / "train.txt").write_text("a.tif a.png\n", "utf-8")
    assert measure_tiles(read_list(tmp_path / "train.txt", tmp_path), CLASSES, workers=1).max_value == 65535


@pytest.mark.parametrize(
    ("value", "dtype", "max_value"),
    [(37, "uint16", 256), (-17.3, "float32", 18), (0.31, "float32", 0.31), (0, "float32", 1)],
)
def test_units_of_other_data(value: float, dtype: str, max_value: float, tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", np.full((64, 64, 2), value, dtype))
    write_png(tmp_path / "a.png", ids(0))
    (tmp_path / "train.txt").write_text("a.tif a.png\n", "utf-8")
    found = measure_tiles(read_list(tmp_path / "train.txt", tmp_path), CLASSES, workers=1)
    assert found.max_value == pytest.approx(max_value)
    assert found.goes_below_zero == (value < 0)


def test_several_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_words(tmp_path, train=3)
    samples = read_list(root / "train.txt", root)
    alone = measure_tiles(samples, CLASSES, workers=1)
    monkeypatch.setattr("rsseg_tf.prepare.tile_statistics._CHUNK", 1)
    monkeypatch.setattr("rsseg_tf.prepare.tile_statistics.in_processes", lambda work, items, _: map(work, items))
    calls: list[tuple[int, int]] = []
    assert measure_tiles(samples, CLASSES, workers=2, progress=lambda *done: calls.append(done)) == alone
    assert calls == [(number, 6) for number in range(1, 7)]


def test_errors_are_one_line(tmp_path: Path) -> None:
    root = write_words(tmp_path)
    samples = read_list(root / "train.txt", root)
    with pytest.raises(DataError, match=r"train_0\.png holds the ids 2; .* allows 0..1 and 255"):
        measure_tiles(samples, CLASSES[:2], workers=1)
    write_tiff(root / "train_1.tif", np.ones((64, 64, 5), np.uint8))
    with pytest.raises(DataError, match=r"train_1\.tif is uint8, but .*train_0\.tif is uint16"):
        measure_tiles(samples, CLASSES, workers=1)
    write_tiff(root / "train_1.tif", np.ones((64, 64, 4), np.uint16))
    with pytest.raises(DataError, match=r"4 bands"):
        measure_tiles(samples, CLASSES, workers=1)
    for number in range(2):
        write_png(root / f"train_{number}.png", np.full((64, 64), 255, np.uint8))
        write_tiff(root / f"train_{number}.tif", np.ones((64, 64, 5), np.uint16))
    with pytest.raises(DataError, match="None of the 2 training tiles has a pixel with data and a class") as error:
        measure_tiles(samples, CLASSES, workers=1)
    assert "\n" not in str(error.value)


# === The config ===


@pytest.mark.skipif(not WEIGHTS, reason="the packages of the extra pretrained are not installed")
def test_on_a_cpu_the_recipe_is_that_of_the_shipped_config(tmp_path: Path) -> None:
    shipped = load_config(find_config("unet/unet_efficientnet_lite0_dubai_256x256_cpu.yml"))
    own = config_of(tmp_path, statistics())
    for section in ("augment", "model", "optimizer", "lr_schedule", "loss", "train", "eval", "sampling"):
        assert getattr(own, section) == getattr(shipped, section), section
    assert own.dataset.spec.mean == shipped.dataset.spec.mean  # of the weights
    assert "# mean: [0.392" in config_text(tmp_path, statistics())


@pytest.mark.skipif(not WEIGHTS, reason="the packages of the extra pretrained are not installed")
def test_on_a_gpu_the_recipe_is_that_of_the_shipped_config(tmp_path: Path) -> None:
    shipped = load_config(find_config("unet/unet_efficientnet_lite0_dubai_512x512_80k.yml"))
    own = config_of(tmp_path, statistics(pixels=(9_000_000, 9_000_000, 9_000_000)), "gpu")
    for section in ("augment", "model", "loss", "eval", "sampling"):
        assert getattr(own, section) == getattr(shipped, section), section
    assert own.optimizer == shipped.optimizer
    assert own.lr_schedule.learning_rate == shipped.lr_schedule.learning_rate


def test_more_pixels_take_more_steps_and_a_larger_network(tmp_path: Path) -> None:
    def steps(pixels: int, trains_on: own_config.TrainsOn) -> tuple[int, str]:
        config = config_of(tmp_path, statistics(pixels=(pixels, 0, 0)), trains_on)
        if trains_on == "cpu":
            assert config.train.iters % config.train.save_interval == 0 and config.train.save_interval <= 700
        return config.train.iters, config.model.backbone.name if config.model.backbone else ""

    assert [steps(n, "cpu")[0] for n in (1_000, 200_000_000, 10**10)] == [300, 800, 2000]
    assert [steps(n, "gpu") for n in (1_000, 10**8, 10**9, 10**11)] == [
        (2000, "efficientnet_lite0"), (2000, "efficientnet_lite1"), (14400, "efficientnet_lite2"),
        (80000, "efficientnet_lite2"),
    ]  # fmt: skip


def test_sizes_decide_on_crops_and_scale(tmp_path: Path) -> None:
    small = config_of(tmp_path, statistics(side=150, shortest=100, longest=200))
    assert small.augment.crop_size == (96, 96) and small.eval.scales == (1.0,) and not small.eval.is_slide
    coarse = config_of(tmp_path, statistics(ground_resolution=10.0))
    assert coarse.augment.scale_range == (0.75, 1.25) and coarse.eval.scales == (1.0,)
    large = config_of(tmp_path, statistics(side=5000, longest=6000))
    assert large.eval.is_slide and large.eval.scales == (0.5,)


def test_what_is_ignored_is_drawn_again(tmp_path: Path) -> None:
    assert not config_of(tmp_path, statistics()).sampling.redraw_ignored
    assert config_of(tmp_path, statistics(left_out=10**9)).sampling.redraw_ignored


def test_colours_change_where_that_means_something(tmp_path: Path) -> None:
    four = statistics(bands=4, moments=(Moments(10, 100.0, 1e4, 0, 255),) * 4)
    augment = config_of(tmp_path, four).augment
    assert augment.brightness_range == 0.2 and augment.saturation_range == 0 == augment.hue_range
    decibels = statistics(bands=2, dtype="float32", max_value=30.0, moments=(Moments(10, -10.0, 1e3, -25, 1),) * 2)
    augment = config_of(tmp_path, decibels).augment
    assert augment.brightness_range == 0 == augment.contrast_range


def test_without_the_package_it_begins_at_random_and_says_how_to_get_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_package(monkeypatch)
    root = write_sound(tmp_path / "mine")
    config = load_config(path := write_own_config(root, classes=CLASSES, trains_on="cpu", workers=1))
    assert config.model.backbone is not None
    assert config.model.backbone.pretrained is None and config.lr_schedule.learning_rate == 0.002
    assert 'pip install ".[pretrained]"' in path.read_text("utf-8")
    tiles = measure_tiles(read_list(root / "train.txt", root), CLASSES, workers=1)
    assert config.dataset.spec.mean == pytest.approx(tiles.mean, rel=1e-3)
    assert config.dataset.spec.std == pytest.approx(tiles.std, rel=1e-3)


def test_it_works_from_anywhere_and_where_the_folder_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_sound(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    path = write_own_config(Path("mine"), classes=CLASSES, workers=1)
    assert path == own_config_path(root) == root / "mine.yml"
    assert load_config("mine/mine.yml").dataset.root == str(root)
    (root / "inside").mkdir()
    monkeypatch.chdir(root / "inside")
    assert own_config_path(Path("..")) == path
    monkeypatch.chdir(tmp_path)
    shutil.move(root, tmp_path / "theirs")
    assert load_config(tmp_path / "theirs" / "mine.yml").dataset.root == str(tmp_path / "theirs")


def test_words_and_bands(tmp_path: Path) -> None:
    root = write_words(tmp_path / "mine")
    names = ("B02", "B03", "B04", "B08", "B11")
    palette = ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    path = write_own_config(root, classes=["yes", "no", "a: b, 'c' #"], palette=palette, band_names=names, workers=1)
    config = load_config(path)
    spec = config.dataset.spec
    assert (spec.bands, spec.rgb_bands, spec.band_names, spec.max_value) == (5, (2, 1, 0), names, 4000)
    assert (spec.classes, spec.palette) == (("yes", "no", "a: b, 'c' #"), palette)
    assert spec.gsd == pytest.approx(0.5, rel=5e-4)
    assert all(math.isclose(value, 0.525, abs_tol=0.02) for value in spec.mean)
    assert (config.model.backbone is not None and config.model.backbone.pretrained is not None) == WEIGHTS
    assert config.augment.saturation_range == 0


def test_one_class_is_refused(tmp_path: Path) -> None:
    root = write_sound(tmp_path / "mine")
    with pytest.raises(DataError, match="has 1 class; a model tells at least 2 apart. Let the background be a class"):
        write_own_config(root, classes=["roof"], ignore_background=True, workers=1)


def test_an_own_config_is_kept(tmp_path: Path) -> None:
    root = write_sound(tmp_path / "mine")
    path = write_own_config(root, classes=CLASSES, workers=1)
    changed = path.read_text("utf-8").replace("batch_size: 4", "batch_size: 3")
    path.write_text(changed, "utf-8")
    write_own_config(root, classes=CLASSES, workers=1)
    assert path.read_text("utf-8") == changed
    write_own_config(root, classes=("earth", *CLASSES[1:]), workers=1)
    assert load_config(path).dataset.spec.classes[0] == "earth"
    assert (root / "mine.1.yml").read_text("utf-8") == changed
    path.write_text("no: [config", "utf-8")
    write_own_config(root, classes=CLASSES, workers=1)
    assert load_config(path).dataset.spec.classes == CLASSES
    assert (root / "mine.2.yml").read_text("utf-8") == "no: [config"


def prepare(output: Path, pixels: int = 7) -> None:
    """Writes a prepared dataset of 16 bits, whose description does not know their range."""
    spec = custom_spec(output.name, CLASSES, [(9, 8, 7), (6, 5, 4), (3, 2, 1)])
    with staged_output(output) as folder:
        prepared = PreparedFolder(folder, spec)
        for split in ("train", "val"):
            sample = prepared.add_sample(split, "a.tif", "a.png")
            write_tiff(sample.image, np.random.default_rng(pixels).integers(0, 900, (64, 64, 3)).astype(np.uint16))
            write_png(folder / "ann_dir" / split / "a.png", ids(0))
            prepared.count_scene(split, ids(0), "a")
        prepared.finish({"tile_size": 64})


def test_the_description_gets_what_the_tiles_hold(tmp_path: Path) -> None:
    prepare(tmp_path / "mine")
    path = write_own_config(tmp_path / "mine", classes=CLASSES, ground_resolution=0.25, workers=1)
    spec, content = read_dataset_json(tmp_path / "mine" / "dataset.json")
    own = load_config(path).dataset.spec
    assert (spec.max_value, spec.gsd, spec.mean, spec.std) == (900, 0.25, own.mean, own.std)
    assert content["tile_size"] == 64 and content["written_by"] == "rsseg_tf" and content["name"] == "mine"
    assert own.palette == ((9, 8, 7), (6, 5, 4), (3, 2, 1))


def test_configs_stay_when_data_are_prepared_again(tmp_path: Path) -> None:
    prepare(tmp_path / "mine")
    write_own_config(tmp_path / "mine", classes=CLASSES, workers=1)
    (tmp_path / "mine" / "trial.yml").write_text("base: mine.yml\n", "utf-8")
    prepare(tmp_path / "mine", pixels=8)
    assert {path.name for path in (tmp_path / "mine").glob("*.yml")} == {"mine.yml", "trial.yml"}
    assert json.loads((tmp_path / "mine" / "dataset.json").read_text("utf-8"))["max_value"] == 255
    (tmp_path / "mine" / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(DataError, match=r"holds 'notes\.txt', which rsseg_tf did not write"):
        prepare(tmp_path / "mine")


@pytest.mark.slow
def test_it_trains_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_words(tmp_path / "mine", train=4)
    path = write_own_config(root, classes=CLASSES, trains_on="cpu", workers=1)
    monkeypatch.chdir(tmp_path)
    few = ("train.iters=2", "train.batch_size=2", "lr_schedule.warmup_steps=0")
    config = load_config(path, few)
    train_samples, val_samples = (read_list(root / name, root) for name in ("train.txt", "val.txt"))
    lines: list[str] = []
    result = train(config, tmp_path / "out", train_samples, val_samples, notify=lines.append, offline=True)
    assert result.checkpoint is not None and result.state.best_step == 2
    assert any("5 bands" in line or "tensors from efficientnet_lite0" in line for line in lines) == WEIGHTS
    assert not any("not what the weights" in line for line in lines)
