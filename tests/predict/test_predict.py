"""Prediction of files: names, colours, failures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from rsseg_tf.datasets.spec import custom_spec
from rsseg_tf.errors import ConfigError, DataError, NotFiniteError, ServingError
from rsseg_tf.predict import (
    InferenceOptions,
    SceneOptions,
    collect_images,
    image_size,
    overlay,
    palette_with,
    predict_labels,
    predict_logits,
)
from rsseg_tf.predict import image as image_module
from rsseg_tf.predict import plan as plan_module
from rsseg_tf.predict.resuming import JOURNAL
from rsseg_tf.rasters.images import image_header, read_image, read_label, write_png
from rsseg_tf.rasters.scenes import open_scene
from rsseg_tf.rasters.windows import Size
from tests.fixtures.scenes import plan_of, predict_files

SPEC = custom_spec("toy", ("dark", "bright"), ((10, 20, 200), (250, 240, 0)))
PLAIN = InferenceOptions()
PLACE = Affine(2.0, 0.0, 500000.0, 0.0, -2.0, 5400000.0)


def bright(batch: np.ndarray) -> np.ndarray:
    """Class 1 where the image is bright."""
    value = batch.mean(axis=-1, dtype=np.float32) - 127.5
    return np.stack([-value, value], axis=-1)


def half_bright(height: int = 16, width: int = 24) -> np.ndarray:
    """The left half is dark, the right half bright."""
    image = np.full((height, width, 3), 30, np.uint8)
    image[:, width // 2 :] = 220
    return image


EXPECTED = (half_bright()[:, :, 0] > 100).astype(np.uint8)


def write_tiff(path: Path, image: np.ndarray, **profile: Any) -> None:
    height, width, count = image.shape
    settings = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": image.dtype}
    place = {"crs": "EPSG:32632", "transform": PLACE}
    with rasterio.open(path, "w", **settings, **place, **profile) as target:
        target.write(image.transpose(2, 0, 1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose subfolders repeat a name."""
    images = tmp_path / "images"
    for sub in ("", "east", "west"):
        (images / sub).mkdir(exist_ok=True)
        write_png(images / sub / "tile.png", half_bright())
    cv2.imwrite(str(images / "east" / "photo.JPG"), half_bright(), [cv2.IMWRITE_JPEG_QUALITY, 100])
    write_tiff(images / "west" / "scene.v2.tif", half_bright())
    (images / ".cache").mkdir()
    write_png(images / ".cache" / "hidden.png", half_bright())
    write_png(images / ".hidden.png", half_bright())
    (images / "notes.md").write_text("no image")
    return images


def results_in(folder: Path) -> list[str]:
    """Returns all files but the journal."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".predicted.jsonl")
    return sorted(str(path.relative_to(folder)) for path in files)


# --- which images -----------------------------------------------------------------------------------------------


def test_a_folder_is_searched_sorted_and_without_hidden_files(folder: Path) -> None:
    images, base = collect_images(folder)
    assert base == folder
    names = ["east/photo.JPG", "east/tile.png", "tile.png", "west/scene.v2.tif", "west/tile.png"]
    assert [str(image.relative_to(folder)) for image in images] == names
    images, _ = collect_images(folder, exclude=folder / "west")
    assert [str(image.relative_to(folder)) for image in images] == names[:3]


def test_a_single_image(folder: Path) -> None:
    assert collect_images(folder / "tile.png") == ([folder / "tile.png"], folder)


def test_a_list_gives_its_first_column_in_order(folder: Path) -> None:
    listing = folder / "val.txt"
    listing.write_text("west/tile.png west/label.png\n\ntile.png\nwest/tile.png\n")
    assert collect_images(listing) == ([folder / "west" / "tile.png", folder / "tile.png"], folder)


def test_a_list_of_absolute_paths_has_their_common_folder(folder: Path, tmp_path: Path) -> None:
    listing = tmp_path / "lists" / "all.txt"
    listing.parent.mkdir()
    listing.write_text(f"{folder}/west/tile.png\n{folder}/east/tile.png\n")
    assert collect_images(listing)[1] == folder


def test_what_holds_no_image_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "wrong.txt").write_text("images/tile.png\nimages/gone.png\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name, message in {
        "empty": "has no images",
        "missing": "does not exist",
        "images/notes.md": "neither an image",
        "empty.txt": "is empty",
        "wrong.txt": r"1 missing file; the first is .*gone\.png \(line 2\)",
        "binary.txt": "UTF-8",
    }.items():
        with pytest.raises(DataError, match=message):
            collect_images(tmp_path / name)


@pytest.mark.parametrize("place", ["", "out", "up/../out"])
def test_results_of_an_earlier_run_are_not_predicted_again(folder: Path, place: str) -> None:
    (folder / "up").mkdir()
    save_dir = folder / place
    first, base = collect_images(folder, exclude=save_dir)
    predict_files(first, bright, SPEC, save_dir, PLAIN, base=base)
    told: list[Any] = []
    again, _ = collect_images(folder, exclude=save_dir, notify=told.append)
    assert again == first
    elsewhere, _ = collect_images(folder, exclude=folder / "another", notify=told.append)
    assert elsewhere == first
    assert "(results of an earlier run)" in told[-1]


def test_links_are_followed_and_what_is_left_out_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (folder / "tile.png").rename(tmp_path / "store/tile.png")
    (folder / "linked").symlink_to(tmp_path / "store")
    (folder / "loop").symlink_to(folder)
    (folder / "scene.ecw").write_bytes(b"x")
    told: list[Any] = []
    images, _ = collect_images(folder, notify=told.append)
    assert folder / "linked/tile.png" in images and len(images) == 5
    (line,) = told
    assert "1 .ecw" in line and "loop (the link leads back" in line and ".hidden.png (hidden)" in line


def test_a_list_is_read_as_training_reads_it(folder: Path, tmp_path: Path) -> None:
    (folder / "two words.png").write_bytes((folder / "tile.png").read_bytes())
    for content in (
        b"\xef\xbb\xbf# tiles\r\ntile.png label.png\r\ntwo words.png\t\r\n",
        b'tile.png\n"two words.png" label.png\n',
        "\ufeffwest\\\\..\\\\tile.png\ntwo words.png\n".replace("\\\\", "\\").encode("utf-16-le"),
    ):
        (folder / "list.txt").write_bytes(content)
        assert [path.name for path in collect_images(folder / "list.txt")[0]] == ["tile.png", "two words.png"]


# --- results ----------------------------------------------------------------------------------------------------


def test_results_keep_the_folders_and_do_not_collide(folder: Path, tmp_path: Path) -> None:
    images, base = collect_images(folder)
    results = predict_files(images, bright, SPEC, tmp_path / "out", PLAIN, base=base)
    assert [result.image for result in results] == images and all(result.ok for result in results)
    assert results_in(tmp_path / "out") == [
        "added_prediction/east/photo.JPG",
        "added_prediction/east/tile.png",
        "added_prediction/tile.png",
        "added_prediction/west/scene.v2.png",
        "added_prediction/west/tile.png",
        "geotiff_prediction/west/scene.v2.qml",
        "geotiff_prediction/west/scene.v2.tif",
        "geotiff_prediction/west/scene.v2.tif.aux.xml",
        "pseudo_color_prediction/east/photo.png",
        "pseudo_color_prediction/east/tile.png",
        "pseudo_color_prediction/tile.png",
        "pseudo_color_prediction/west/scene.v2.png",
        "pseudo_color_prediction/west/tile.png",
    ]
    for result in results:
        np.testing.assert_array_equal(read_label(result.files["pseudo_color"]), EXPECTED)
        np.testing.assert_array_equal(read_image(result.files["pseudo_color"]), np.array(SPEC.palette)[EXPECTED])
    np.testing.assert_array_equal(
        read_image(results[1].files["overlay"]), overlay(half_bright(), EXPECTED, SPEC.palette)
    )
    photo = read_image(results[0].files["overlay"]).astype(int)
    assert np.abs(photo - overlay(half_bright(), EXPECTED, SPEC.palette))[:, [2, -3]].max() < 12, "red stays red"
    with rasterio.open(results[3].files["geotiff"]) as labels:
        np.testing.assert_array_equal(labels.read(1), EXPECTED)
        assert labels.crs.to_epsg() == 32632 and labels.transform == PLACE


def test_pixels_without_data_are_ignored_in_every_result(tmp_path: Path) -> None:
    image = half_bright()
    image[:4] = 0
    write_tiff(tmp_path / "a.tif", image, nodata=0)
    spec = custom_spec("toy", SPEC.classes, SPEC.palette, ignore_index=254)
    (result,) = predict_files([tmp_path / "a.tif"], bright, spec, tmp_path / "out", PLAIN)
    assert result.ok, result.error
    expected = EXPECTED.copy()
    expected[:4] = 254
    np.testing.assert_array_equal(read_label(result.files["pseudo_color"]), expected)
    with rasterio.open(result.files["geotiff"]) as labels:
        np.testing.assert_array_equal(labels.read(1), expected)
    assert (read_image(result.files["overlay"])[:4] == 0).all()


def test_what_lies_under_alpha_zero_is_shown_black(tmp_path: Path) -> None:
    alpha = np.full((16, 24, 1), 255, np.uint8)
    alpha[:4] = 0
    write_png(tmp_path / "a.png", np.concatenate([half_bright(), alpha], axis=2))
    (result,) = predict_files([tmp_path / "a.png"], bright, SPEC, tmp_path / "out", PLAIN)
    picture = read_image(result.files["overlay"])
    assert (picture[:4] == 0).all() and (picture[4:] > 0).all(axis=-1).any()
    assert (read_label(result.files["pseudo_color"])[:4] == 255).all() and "geotiff" not in result.files


def test_windows_give_the_same_files(folder: Path, tmp_path: Path) -> None:
    options = InferenceOptions(is_slide=True, crop_size=Size(5, 7), stride=Size(3, 4), batch_size=3)
    (result,) = predict_files([folder / "tile.png"], bright, SPEC, tmp_path / "out", options)
    np.testing.assert_array_equal(read_label(result.files["pseudo_color"]), EXPECTED)


def test_custom_colours_replace_the_first_ones(folder: Path, tmp_path: Path) -> None:
    (result,) = predict_files(
        [folder / "west" / "scene.v2.tif"], bright, SPEC, tmp_path / "out", PLAIN, palette=palette_with([1, 2, 3], SPEC)
    )
    assert read_image(result.files["pseudo_color"])[0, [0, -1]].tolist() == [[1, 2, 3], [250, 240, 0]]
    with rasterio.open(result.files["geotiff"]) as labels:
        assert labels.colormap(1)[0] == (1, 2, 3, 255)
    assert palette_with(None, SPEC) == SPEC.palette
    assert palette_with([0, 0, 0, 0, 0, 0], SPEC) == ((0, 0, 0), (0, 0, 0))
    for wrong in ([], [1, 2], [1, 2, 256], [-1, 0, 0], [0] * 9):
        with pytest.raises(ConfigError, match="custom_color must be red, green and blue"):
            palette_with(wrong, SPEC)


def test_a_failure_is_reported_and_the_others_are_done(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_bytes((folder / "tile.png").read_bytes()[:60])
    write_png(folder / "grey.png", half_bright()[:, :, 0].copy())
    rgba = np.dstack([half_bright()[:, :, 0], np.full((16, 24), 255, np.uint8)])
    write_tiff(folder / "two.tif", rgba, alpha="yes")
    names = ("broken.png", "grey.png", "tile.png", "two.tif")
    results = predict_files(
        [folder / name for name in names],
        bright,
        SPEC,
        tmp_path / "out",
        PLAIN,
    )
    assert [result.ok for result in results] == [False, False, True, False]
    assert "broken.png" in (results[0].error or "") and "damaged" in (results[0].error or "")
    assert "has 1 band, but the dataset 'toy' has 3" in (results[1].error or "")
    assert "beside its alpha band" in (results[3].error or "")
    assert all("\n" not in result.error for result in results if result.error)
    assert [result.image.name for result in results] == list(names)
    assert results_in(tmp_path / "out") == ["added_prediction/tile.png", "pseudo_color_prediction/tile.png"]


def test_a_server_that_fails_once_does_not_stop_the_rest(folder: Path, tmp_path: Path) -> None:
    calls = []

    def flaky(batch: np.ndarray) -> np.ndarray:
        calls.append(batch.shape)
        if len(calls) == 1:
            raise ServingError("the server is busy")
        return bright(batch)

    images, base = collect_images(folder)
    results = predict_files(images, flaky, SPEC, tmp_path / "out", PLAIN, base=base)
    assert [result.error for result in results] == ["the server is busy", None, None, None, None]


class Panic(BaseException):
    """What libraries in other languages raise; it is no Exception."""


@pytest.mark.parametrize(
    "raised",
    [TypeError("a bug"), MemoryError(), RecursionError("too deep"), KeyError("k"), UnicodeError("name"), Panic("core")],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["model", "reading", "writing", "advance"])
def test_one_image_never_ends_a_run_whatever_it_raises(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, where: str
) -> None:
    images, base = collect_images(folder)

    def failing(original: Callable[..., Any], is_due: Callable[..., Any]) -> Callable[..., Any]:
        def fail(*args: Any, **kwargs: Any) -> Any:
            if is_due(*args):
                raise raised
            return original(*args, **kwargs)

        return fail

    calls = []
    first = failing(lambda *args: bright(args[0]), lambda *args: calls.append(1) or len(calls) == 1)
    model, advance = bright, None
    if where == "model":
        model = first
    elif where == "reading":
        monkeypatch.setattr(image_module, "open_scene", failing(open_scene, lambda path, *_: path == images[0]))
    elif where == "writing":
        monkeypatch.setattr(
            image_module, "write_png", failing(write_png, lambda *_: calls.append(1) or len(calls) == 1)
        )
    else:
        advance = failing(lambda *_: None, lambda job, *_: job.path == images[0])
    results = predict_files(images, model, SPEC, tmp_path / "out", PLAIN, base=base, advance=advance)
    assert [result.image for result in results] == images
    assert [result.ok for result in results] == [False, True, True, True, True]
    assert type(raised).__name__ in (results[0].error or "") and str(raised).strip("'") in (results[0].error or "")
    assert "\n" not in (results[0].error or "")


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_ends_a_run(folder: Path, tmp_path: Path, interrupt: type[BaseException]) -> None:
    def stop(batch: np.ndarray) -> NoReturn:
        raise interrupt

    with pytest.raises(interrupt):
        predict_files([folder / "tile.png"], stop, SPEC, tmp_path / "out", PLAIN)


@pytest.mark.parametrize("line", ['{"name": "ti', "[" * 100_000, "[1, 2]", "\x00\xff"])
def test_damaged_lines_of_a_journal_count_as_not_done(folder: Path, tmp_path: Path, line: str) -> None:
    images, base = collect_images(folder)
    predict_files(images, bright, SPEC, tmp_path / "out", PLAIN, base=base)
    journal = tmp_path / "out" / JOURNAL
    journal.write_text(journal.read_text("utf-8") + "\n" + line + "\n", "utf-8")
    again = predict_files(images, bright, SPEC, tmp_path / "out", PLAIN, base=base, scenes=SceneOptions(resume=True))
    assert all(result.ok for result in again)


def test_a_journal_that_cannot_be_written_costs_no_result(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / JOURNAL).mkdir(parents=True)  # a folder where the file should be
    images, base = collect_images(folder)
    results = predict_files(images, bright, SPEC, tmp_path / "out", PLAIN, base=base)
    assert all(result.ok and result.files["pseudo_color"].is_file() for result in results)
    assert all("--resume will do it again" in (result.note or "") for result in results)


def test_a_size_that_cannot_be_told_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise TypeError("of a library")

    monkeypatch.setattr(plan_module, "raster_driver", fail)
    assert image_size(tmp_path / "a.tif") == (0, 0)


# === Values that are not finite ===


def faulty(
    value: float, where: Callable[..., Any] = lambda batch: np.ones(batch.shape[:3], bool)
) -> Callable[..., Any]:
    """Returns a model with one wrong logit wherever `where` says."""

    def predict(batch: np.ndarray) -> np.ndarray:
        logits = bright(batch)
        logits[..., 1][where(batch)] = value
        return logits

    return predict


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        InferenceOptions(flip_horizontal=True),
        InferenceOptions(is_slide=True, crop_size=Size(8, 8), stride=Size(8, 8)),
    ],
    ids=["whole", "flips", "windows"],
)
def test_logits_that_are_not_finite_are_refused(
    folder: Path, tmp_path: Path, value: float, options: InferenceOptions
) -> None:
    (result,) = predict_files([folder / "tile.png"], faulty(value), SPEC, tmp_path / "out", options)
    assert "the model gives values that are not finite" in (result.error or "")
    assert "use an earlier checkpoint" in (result.error or "")
    assert results_in(tmp_path / "out") == []


def test_the_window_with_such_values_is_named(folder: Path, tmp_path: Path) -> None:
    # The right half of the tile is bright, and the batch of four windows holds both halves.
    options = InferenceOptions(is_slide=True, crop_size=Size(8, 8), stride=Size(8, 8), batch_size=4)
    wrong = faulty(np.nan, lambda batch: np.broadcast_to((batch > 100).all((1, 2, 3))[:, None, None], batch.shape[:3]))
    (result,) = predict_files([folder / "tile.png"], wrong, SPEC, tmp_path / "out", options)
    assert "in the window at row 0, column 16: the model gives values" in (result.error or "")
    with pytest.raises(NotFiniteError, match="in the window at row 0, column 16"):
        predict_labels(wrong, half_bright(), SPEC, options)


def test_pixels_that_are_not_finite_are_told_from_a_broken_model() -> None:
    pixels = np.ones((1, 4, 5, 3), np.float32)
    pixels[0, 1, 2] = np.nan
    with pytest.raises(NotFiniteError, match="for 5x4 pixels, of which 1 are NaN or infinite themselves"):
        predict_logits(bright, pixels[0], SPEC, InferenceOptions())


def test_steps_are_taken_one_by_one_and_arguments_checked_first(folder: Path, tmp_path: Path) -> None:
    images, base = collect_images(folder)
    steps = plan_of(images, SPEC, tmp_path / "out", PLAIN, base=base).run(bright)
    assert not (tmp_path / "out").exists()
    assert next(steps)[1].image == images[0]
    assert len(results_in(tmp_path / "out")) == 2


def test_names_that_would_collide_are_refused_before_the_first_image(folder: Path, tmp_path: Path) -> None:
    write_tiff(folder / "tile.tif", half_bright())
    with pytest.raises(DataError, match=r"tile\.png and .*tile\.tif would write results of one name, 'tile'"):
        predict_files([folder / "tile.png", folder / "tile.tif"], bright, SPEC, tmp_path / "out", PLAIN)
    with pytest.raises(DataError, match="does not lie in"):
        predict_files([folder / "tile.png"], bright, SPEC, tmp_path / "out", PLAIN, base=folder / "west")
    assert not (tmp_path / "out").exists()


def test_without_a_base_the_common_folder_is_taken(folder: Path, tmp_path: Path) -> None:
    predict_files([folder / "west" / "tile.png", folder / "east" / "tile.png"], bright, SPEC, tmp_path / "out", PLAIN)
    assert "pseudo_color_prediction/west/tile.png" in results_in(tmp_path / "out")
    assert image_header(tmp_path / "out" / "added_prediction" / "east" / "tile.png").bands == 3
    assert predict_files([], bright, SPEC, tmp_path / "out", PLAIN) == []
