from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.datasets.table import RECIPES, SPECS, dataset_spec
from rsseg_tf.errors import DataError
from rsseg_tf.prepare.run import PrepareOptions, prepare_dataset
from tests.fixtures import downloads


def test_tables_agree() -> None:
    assert set(SPECS) == {name for name, recipe in RECIPES.items() if isinstance(recipe.dataset, DatasetSpec)}
    assert all(name == spec.name for name, spec in SPECS.items())
    assert all((recipe.find_scenes is None) != (recipe.make_scene is None) for recipe in RECIPES.values())
    assert len({recipe.output for recipe in RECIPES.values()}) == len(RECIPES)
    assert dataset_spec("dubai") is SPECS["dubai"]


@pytest.mark.parametrize("call", [dataset_spec, lambda name: prepare_dataset(name, [], Path("x"), PrepareOptions())])
def test_unknown_name_gets_a_hint(call: Callable[..., Any]) -> None:
    with pytest.raises(
        DataError, match=r"no dataset 'dubay'; known are .*dubai, .*synthetic.*\. Did you mean 'dubai'\?"
    ):
        call("dubay")


def test_datasets_of_the_benchmark() -> None:
    isaid, potsdam, vaihingen = (SPECS[name] for name in ("isaid", "potsdam", "vaihingen"))
    assert (isaid.num_classes, potsdam.num_classes, vaihingen.num_classes) == (16, 6, 6)
    assert isaid.small_class_ids == (1, 8, 9, 10, 11, 14, 15), "as the original writes them into its model"
    assert potsdam.classes == vaihingen.classes and potsdam.small_class_ids == ()
    assert all(spec.mean == spec.std == (0.5, 0.5, 0.5) for spec in (isaid, potsdam, vaihingen))


def test_synthetic(tmp_path: Path) -> None:
    options = PrepareOptions(tile_size=64, scenes_train=2, scenes_val=1, seed=5)
    report = prepare_dataset("synthetic", [], tmp_path / "out", options)
    assert (report.name, report.splits["train"].tiles, report.splits["val"].tiles) == ("synthetic", 2, 1)
    assert report.output == tmp_path / "out"


def test_dubai_passes_its_options_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Tiles of 64 pixels with an overlap of 70"):
        prepare_dataset("dubai", [tmp_path], tmp_path / "out", PrepareOptions(tile_size=64, overlap=70))
    with pytest.raises(DataError, match="off_palette_fraction is 3"):
        prepare_dataset("dubai", [tmp_path], tmp_path / "out", PrepareOptions(off_palette_fraction=3))


@pytest.mark.parametrize(
    ("name", "source", "options", "message"),
    [
        ("dubai", [], {}, "needs the downloaded folder or zip file"),
        ("dubai", [Path("x")], {"seed": 0}, r"'dubai' has no option seed \(got 0\); it takes off_palette"),
        ("synthetic", [], {"overlap": 8}, "'synthetic' has no option overlap"),
        ("synthetic", [Path("x")], {}, "is made, not read; got the source x"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, name: str, source: list[Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        prepare_dataset(name, source, tmp_path / "out", PrepareOptions(**options))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "download"),
    [("potsdam", downloads.potsdam), ("vaihingen", downloads.vaihingen), ("loveda", downloads.loveda)],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_one_part_of_a_dataset(tmp_path: Path, name: str, download: Callable[..., Any], split: str) -> None:
    download(tmp_path / "download")
    for place, splits in (("all", None), ("part", (split,))):
        prepare_dataset(name, [tmp_path / "download"], tmp_path / place, PrepareOptions(tile_size=32, splits=splits))
    assert [path.name for path in (tmp_path / "part").glob(f"{split}.txt")] == [f"{split}.txt"]
    assert {path.name for path in (tmp_path / "part/img_dir").iterdir()} == {split}
    for path in (tmp_path / "part").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "all" / path.relative_to(tmp_path / "part")).read_bytes()
    assert (tmp_path / f"part/{split}.txt").read_bytes() == (tmp_path / f"all/{split}.txt").read_bytes()


def test_an_incomplete_dataset_says_how_to_take_what_is_there(tmp_path: Path) -> None:
    downloads.potsdam(tmp_path / "download", ("2_10",))
    with pytest.raises(DataError, match=r"would have no val tiles\. .*prepare what is there alone: splits train\."):
        prepare_dataset("potsdam", [tmp_path / "download"], tmp_path / "out", PrepareOptions(tile_size=32))
