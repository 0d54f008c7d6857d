from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.datasets import custom_spec
from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import read_list
from rsseg_tf.prepare.output import PreparedFolder, SplitReport, read_dataset_json, read_description, staged_output
from rsseg_tf.rasters.images import read_image, read_label, write_png

SPEC = custom_spec("tiny", ["a", "b"], source="made up")


def scene(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(height * width)
    return rng.integers(1, 255, (height, width, 3)).astype(np.uint8), rng.integers(0, 2, (height, width)).astype(
        np.uint8
    )


def fill(folder: Path, *scenes: tuple[str, str, np.ndarray, np.ndarray]) -> dict[str, SplitReport]:
    """Writes each scene as one tile."""
    prepared = PreparedFolder(folder, SPEC)
    for split, stem, image, label in scenes:
        sample = prepared.add_sample(split, f"{stem}.png", f"{stem}.png")
        write_png(sample.image, image)
        assert sample.label is not None
        write_png(sample.label, label, SPEC.palette)
        prepared.count_scene(split, label, stem)
    return prepared.finish({"tile_size": 16})


def test_lists_and_counts(tmp_path: Path) -> None:
    image, label = scene(30, 41)
    label[0, 0] = 255
    splits = fill(tmp_path, ("train", "s", image, label), ("val", "t", *scene(16, 16)))
    (sample,) = read_list(tmp_path / "train.txt", tmp_path)
    np.testing.assert_array_equal(read_image(sample.image), image)
    assert sample.label is not None
    np.testing.assert_array_equal(read_label(sample.label), label)
    assert splits["train"].scenes == splits["train"].tiles == 1
    assert splits["train"].ignored_pixels == 1
    assert splits["train"].pixels == {"a": int((label == 0).sum()), "b": int((label == 1).sum())}


def test_description_and_class_names(tmp_path: Path) -> None:
    splits = fill(tmp_path, ("train", "s", *scene(20, 20)), ("val", "t", *scene(16, 16)))
    assert (tmp_path / "labels.txt").read_text() == "a\nb\n"
    spec, content = read_dataset_json(tmp_path / "dataset.json")
    assert spec == SPEC
    assert content["tile_size"] == 16
    assert content["splits"]["train"]["pixels"] == splits["train"].pixels
    assert {path.name for path in tmp_path.iterdir()} == {
        "img_dir",
        "ann_dir",
        "train.txt",
        "val.txt",
        "labels.txt",
        "dataset.json",
    }


def test_impossible_label(tmp_path: Path) -> None:
    image, label = scene(20, 20)
    label[3, 3] = 2
    with pytest.raises(DataError, match=r"s holds label 2 \(1 pixels\).*allows 0\.\.1 and 255"):
        fill(tmp_path, ("train", "s", image, label))


def test_empty_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no val tiles"):
        fill(tmp_path, ("train", "s", *scene(20, 20)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("{", "cannot be read as JSON"),
        ("[]", "does not describe a dataset"),
        ('{"name": "x"}', "does not describe a dataset"),
        ('{"written_by": "rsseg_tf", "name": "x"}', "lacks the entry 'classes'"),
    ],
)
def test_bad_description(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_dataset_json(tmp_path / "dataset.json")


def test_description_with_wrong_types(tmp_path: Path) -> None:
    fill(tmp_path, ("train", "s", *scene(16, 16)), ("val", "t", *scene(16, 16)))
    content = json.loads((tmp_path / "dataset.json").read_text())
    content["palette"] = [1, 2]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="entry of a wrong type"):
        read_dataset_json(tmp_path / "dataset.json")


# --- the output folder ---------------------------------------------------------------------------------------------


def stage(output: Path, name: str = "train.txt") -> None:
    with staged_output(output) as folder:
        (folder / name).write_text("new")


def test_staged_output_appears_whole(tmp_path: Path) -> None:
    output = tmp_path / "new" / "set"
    with staged_output(output) as folder:
        (folder / "x").write_text("1")
        assert not output.exists()
    assert (output / "x").read_text() == "1"
    assert [path.name for path in output.parent.iterdir()] == ["set"]


def test_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    stage(tmp_path / "set")
    assert (tmp_path / "set" / "train.txt").exists()


def test_error_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with staged_output(tmp_path / "set") as folder:
            (folder / "x").write_text("1")
            raise DataError("stop")

    with pytest.raises(DataError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_own_output_is_replaced_and_survives_an_error(tmp_path: Path) -> None:
    output = tmp_path / "set"
    with staged_output(output) as folder:
        fill(folder, ("train", "s", *scene(16, 16)), ("val", "t", *scene(16, 16)))

    def fail() -> None:
        with staged_output(output):
            raise DataError("stop")

    with pytest.raises(DataError, match="stop"):
        fail()
    assert (output / "img_dir/train/s.png").exists()
    stage(output)
    assert [path.name for path in output.iterdir()] == ["train.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_own_output_with_a_stranger_in_it_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "set"
    with staged_output(output) as folder:
        fill(folder, ("train", "s", *scene(16, 16)), ("val", "t", *scene(16, 16)))
    (output / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds 'notes\.txt', which rsseg_tf did not write"):
        stage(output)
    assert (output / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("description", [None, "{}", '{"written_by": "another"}'])
def test_foreign_folder_is_refused(tmp_path: Path, description: str | None) -> None:
    (tmp_path / "set" / "img_dir").mkdir(parents=True)
    if description is not None:
        (tmp_path / "set" / "dataset.json").write_text(description)
    with pytest.raises(DataError, match="nothing shows that rsseg_tf wrote it"):
        stage(tmp_path / "set")
    assert (tmp_path / "set" / "img_dir").exists()


def test_file_or_link_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(DataError, match="is not a folder"):
            stage(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_unwritable_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match=r"Cannot write .*file/set: Not a directory"):
        stage(tmp_path / "file" / "set")


def test_relative_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    stage(Path("set"))
    assert (tmp_path / "here" / "set" / "train.txt").exists()


def test_description_from_before_there_were_band_names(tmp_path: Path) -> None:
    fill(tmp_path, ("train", "s", *scene(16, 16)), ("val", "t", *scene(16, 16)))
    content = json.loads((tmp_path / "dataset.json").read_text())
    for field in ("band_names", "gsd"):
        del content[field]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    spec, _ = read_dataset_json(tmp_path / "dataset.json")
    assert (spec.band_names, spec.gsd) == ((), None)


@pytest.mark.parametrize(("protocol", "cutting"), [("seed", "benchmark"), ("overlap", "overlap")])
def test_description_with_the_entries_of_earlier_versions(tmp_path: Path, protocol: str, cutting: str) -> None:
    (tmp_path / "dataset.json").write_text(
        json.dumps({"written_by": "rsseg_tf", "protocol": protocol, "labels": "full"})
    )
    content = read_description(tmp_path / "dataset.json")
    assert list(content.items()) == [("written_by", "rsseg_tf"), ("cutting", cutting), ("labels", "full")]


def test_what_a_kill_has_left_is_cleared(tmp_path: Path) -> None:
    """The old folder comes back where nothing has taken its place; names of others are let be."""
    with staged_output(tmp_path / "set") as folder:
        fill(folder, ("train", "s", *scene(16, 16)), ("val", "t", *scene(16, 16)))
    (tmp_path / "set").rename(tmp_path / ".set.retired")
    (tmp_path / ".set.partial").mkdir()
    (tmp_path / ".set.mine.tmp").mkdir()
    with pytest.raises(RuntimeError), staged_output(tmp_path / "set"):
        assert (tmp_path / "set" / "dataset.json").is_file()
        raise RuntimeError
    assert {path.name for path in tmp_path.iterdir()} == {"set", ".set.mine.tmp"}


def test_the_finished_scenes_of_an_unfinished_run_are_not_thrown_away(tmp_path: Path) -> None:
    (tmp_path / ".set.partial" / ".work").mkdir(parents=True)
    with pytest.raises(DataError, match=r"\.set\.partial holds an unfinished run"), staged_output(tmp_path / "set"):
        raise RuntimeError
    assert (tmp_path / ".set.partial" / ".work").is_dir()
