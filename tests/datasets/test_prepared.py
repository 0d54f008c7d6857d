from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.datasets import custom_spec, read_dataset_json, read_image, read_label, read_list
from rsseg_tf.datasets.prepared import PreparedFolder, staged_output
from rsseg_tf.errors import DataError

SPEC = custom_spec("tiny", ["a", "b"], source="made up")


def scene(height, width):
    rng = np.random.default_rng(height * width)
    return rng.integers(1, 255, (height, width, 3)).astype(np.uint8), rng.integers(0, 2, (height, width)).astype(
        np.uint8
    )


def fill(folder, *scenes):
    prepared = PreparedFolder(folder, SPEC)
    for split, stem, image, label in scenes:
        prepared.add_scene(split, stem, image, label, tile_size=16, overlap=4)
    return prepared.finish({"tile_size": 16})


def test_tiles_equal_their_source(tmp_path):
    image, label = scene(30, 41)
    label[0, 0] = 255
    splits = fill(tmp_path, ("train", "s", image, label), ("val", "t", *scene(16, 16)))
    samples = read_list(tmp_path / "train.txt", tmp_path)
    assert splits["train"].tiles == len(samples) == 3 * 4
    covered = np.zeros((30, 41), bool)
    for sample in samples:
        assert sample.image.name == sample.label.name
        y0, x0 = (int(part) for part in sample.image.stem.split("_")[1:])
        np.testing.assert_array_equal(read_image(sample.image), image[y0 : y0 + 16, x0 : x0 + 16])
        np.testing.assert_array_equal(read_label(sample.label), label[y0 : y0 + 16, x0 : x0 + 16])
        covered[y0 : y0 + 16, x0 : x0 + 16] = True
    assert covered.all()
    assert splits["train"].scenes == 1
    assert splits["train"].ignored_pixels == 1
    assert splits["train"].pixels == {"a": int((label == 0).sum()), "b": int((label == 1).sum())}


def test_small_scenes_are_padded_right_and_below(tmp_path):
    image, label = scene(10, 20)
    fill(tmp_path, ("train", "s", image, label), ("val", "t", *scene(5, 4)))
    tile, ids = read_image(tmp_path / "img_dir/train/s_0_4.png"), read_label(tmp_path / "ann_dir/train/s_0_4.png")
    np.testing.assert_array_equal(tile[:10], image[:, 4:])
    np.testing.assert_array_equal(ids[:10], label[:, 4:])
    assert not tile[10:].any()
    assert (ids[10:] == 255).all()
    assert (read_label(tmp_path / "ann_dir/val/t_0_0.png") == 255).sum() == 256 - 20


def test_description_and_class_names(tmp_path):
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


def test_size_mismatch(tmp_path):
    with pytest.raises(DataError, match="s: the image is 20x20 and its mask 20x21 pixels"):
        fill(tmp_path, ("train", "s", scene(20, 20)[0], scene(20, 21)[1]))


def test_impossible_label(tmp_path):
    image, label = scene(20, 20)
    label[3, 3] = 2
    with pytest.raises(DataError, match=r"s holds label 2 \(1 pixels\).*allows 0\.\.1 and 255"):
        fill(tmp_path, ("train", "s", image, label))


def test_empty_split(tmp_path):
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
def test_bad_description(tmp_path, text, message):
    if text is not None:
        (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_dataset_json(tmp_path / "dataset.json")


def test_description_with_wrong_types(tmp_path):
    fill(tmp_path, ("train", "s", *scene(16, 16)), ("val", "t", *scene(16, 16)))
    content = json.loads((tmp_path / "dataset.json").read_text())
    content["palette"] = [1, 2]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="entry of a wrong type"):
        read_dataset_json(tmp_path / "dataset.json")


# --- the output folder ---------------------------------------------------------------------------------------------


def stage(output, name="train.txt"):
    with staged_output(output) as folder:
        (folder / name).write_text("new")


def test_staged_output_appears_whole(tmp_path):
    output = tmp_path / "new" / "set"
    with staged_output(output) as folder:
        (folder / "x").write_text("1")
        assert not output.exists()
    assert (output / "x").read_text() == "1"
    assert [path.name for path in output.parent.iterdir()] == ["set"]


def test_empty_folder_is_taken(tmp_path):
    (tmp_path / "set").mkdir()
    stage(tmp_path / "set")
    assert (tmp_path / "set" / "train.txt").exists()


def test_error_leaves_nothing(tmp_path):
    def fail():
        with staged_output(tmp_path / "set") as folder:
            (folder / "x").write_text("1")
            raise DataError("stop")

    with pytest.raises(DataError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_own_output_is_replaced_and_survives_an_error(tmp_path):
    output = tmp_path / "set"
    with staged_output(output) as folder:
        fill(folder, ("train", "s", *scene(16, 16)), ("val", "t", *scene(16, 16)))

    def fail():
        with staged_output(output):
            raise DataError("stop")

    with pytest.raises(DataError, match="stop"):
        fail()
    assert (output / "img_dir/train/s_0_0.png").exists()
    stage(output)
    assert [path.name for path in output.iterdir()] == ["train.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_own_output_with_a_stranger_in_it_is_refused(tmp_path):
    output = tmp_path / "set"
    with staged_output(output) as folder:
        fill(folder, ("train", "s", *scene(16, 16)), ("val", "t", *scene(16, 16)))
    (output / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds 'notes\.txt', which is not ours"):
        stage(output)
    assert (output / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("description", [None, "{}", '{"written_by": "another"}'])
def test_foreign_folder_is_refused(tmp_path, description):
    (tmp_path / "set" / "img_dir").mkdir(parents=True)
    if description is not None:
        (tmp_path / "set" / "dataset.json").write_text(description)
    with pytest.raises(DataError, match="nothing shows that rsseg_tf wrote it"):
        stage(tmp_path / "set")
    assert (tmp_path / "set" / "img_dir").exists()


def test_file_or_link_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(DataError, match="is not a folder"):
            stage(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_unwritable_output(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match=r"Cannot write .*file/set: Not a directory"):
        stage(tmp_path / "file" / "set")


def test_relative_output(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    stage(Path("set"))
    assert (tmp_path / "here" / "set" / "train.txt").exists()
