from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest

from rsseg_tf.checkpoint import read_state
from rsseg_tf.config import load_config
from rsseg_tf.datasets import custom_spec
from rsseg_tf.errors import DataError, ExportError, WeightsError, address_hint
from rsseg_tf.export import export_model, load_trained, verify
from rsseg_tf.files.archives import list_members
from rsseg_tf.files.lists import read_list
from rsseg_tf.manifest import read_manifest
from rsseg_tf.predict import InferenceOptions, collect_images
from rsseg_tf.predictors import find_model, keras_predictor, normalise, open_predictor
from rsseg_tf.predictors.artifacts import as_input
from rsseg_tf.rasters.images import read_image, write_png
from rsseg_tf.training import make_strategy, train
from tests.fixtures.checkpoints import pixels, write_checkpoint
from tests.fixtures.configs import use_tiny_backbone
from tests.fixtures.scenes import predict_files

TWO = custom_spec("two", ("a", "b"), bands=2, max_value=1000.0, mean=(0.1, 0.5), std=(0.2, 0.25))


def test_normalise_is_scale_mean_std_by_band() -> None:
    pixels = np.array([[[100, 1000], [300, 0]]], np.uint16)
    result = normalise(pixels, TWO)
    assert result.dtype == "float32"
    np.testing.assert_allclose(result, [[[0.0, 2.0], [1.0, -2.0]]], atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32", "float64"])
def test_the_model_of_a_predictor_sees_normalised_pixels(dtype: str) -> None:
    inputs = keras.Input((None, None, 2))
    predict = keras_predictor(keras.Model(inputs, {"main": keras.layers.Identity()(inputs)}), TWO)
    pixels = np.random.default_rng(0).integers(0, 1000, (2, 5, 7, 2)).astype(dtype)
    logits = predict(pixels)
    assert logits.dtype == np.float32
    expected = (pixels / 1000 - TWO.mean) / TWO.std
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_a_checkpoint_brings_along_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    checkpoint, config = write_checkpoint(tmp_path, "eval.flip_vertical=true")
    predictor = open_predictor(checkpoint)
    assert predictor.kind == "checkpoint" and predictor.manifest is None and predictor.tile is None
    assert predictor.spec == config.dataset.spec
    assert predictor.options == InferenceOptions(flip_vertical=True, tile=config.augment.crop)
    assert predictor.predict(pixels(20, 30)).shape == (2, 20, 30, 2)


@pytest.mark.parametrize("names", [["1", "2", "10"], ["3"]])
def test_the_newest_version_is_taken(tmp_path: Path, names: list[str]) -> None:
    for name in [*names, "old", ".11.partial"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    assert find_model(tmp_path) == ("savedmodel", tmp_path / names[-1])
    assert find_model(tmp_path / names[0]) == ("savedmodel", tmp_path / names[0])


@pytest.mark.parametrize(("name", "kind"), [("a.tflite", "tflite"), ("b.ONNX", "onnx"), ("c.xml", "openvino")])
def test_files_are_told_by_their_suffix(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).touch()
    assert find_model(tmp_path / name) == (kind, tmp_path / name)


def test_other_things_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "a.h5").touch()
    with pytest.raises(ExportError, match=r"a\.h5 is no model; .*\.tflite, \.onnx, \.xml is needed"):
        find_model(tmp_path / "a.h5")
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(WeightsError, match="is not a checkpoint"):
            find_model(path)


def test_pixels_are_given_in_the_type_of_the_model() -> None:
    image = np.array([[0.4, 254.6, 7.0]], np.float32)
    np.testing.assert_array_equal(as_input(image, "uint8"), np.array([[0, 255, 7]], np.uint8))
    assert as_input(image, "float32") is image
    assert as_input(np.array([70000]), "float32").dtype == np.float32
    for wrong in ([256], [-1], [np.nan]):
        with pytest.raises(DataError, match=r"takes bytes, 0\.\.255"):
            as_input(np.array(wrong, np.float32), "uint8")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("weights.pdparams", "Released weights become a checkpoint by rsseg-tf convert"),
        ("weights.tar.gz", "Released weights become a checkpoint by rsseg-tf convert"),
        ("config.yml", "A config goes with --config"),
        ("model.keras", "A file of Keras is opened by keras.saving.load_model"),
        ("iter_5/state.json", "It lies in the folder of one: name "),
        ("iter_5/weights.npz", "It lies in the folder of one: name "),
    ],
)
def test_a_file_that_is_no_model_says_what_it_is(tmp_path: Path, name: str, said: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if path.parent != tmp_path:
        (path.parent / "weights.npz").touch()
    path.touch()
    with pytest.raises(ExportError, match="is no model; .*" + re.escape(said)):
        find_model(path)


def test_a_folder_around_a_checkpoint_names_it(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "config.yml").touch()
    with pytest.raises(WeightsError, match=r"has no config\.yml\. A checkpoint is a folder such as"):
        find_model(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "weights.npz").touch()
    with pytest.raises(WeightsError, match=r"has no config\.yml\. Did you mean .*run\?"):
        find_model(tmp_path)


@pytest.mark.parametrize("address", ["https://a.b/model", "s3://bucket/model", "gs://b/m.onnx", "/vsicurl/https://a/b"])
def test_an_address_is_no_model(address: str) -> None:
    with pytest.raises(WeightsError, match="That is a network address; only local files are read here"):
        find_model(Path(address))


def test_what_is_missing_in_the_network_is_told_from_what_is_missing_here(tmp_path: Path) -> None:
    assert [bool(address_hint(path)) for path in ("C:/data/a.tif", "a/b.tif", "/data/x y/z", "a:b", "1:/2")] == [
        False
    ] * 5
    listed = tmp_path / "val.txt"
    listed.write_text("http://a.b/c.tif http://a.b/d.tif\n", "utf-8")
    for ask in (
        lambda: read_list(listed, tmp_path),
        lambda: read_list(Path("https://a.b/val.txt"), Path("https://a.b")),
        lambda: list_members([Path("https://a.b/c.zip").absolute()]),
    ):
        with pytest.raises(DataError, match="That is a network address"):
            ask()


def test_functions_take_paths_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    checkpoint, config = write_checkpoint(tmp_path)
    predictor = open_predictor(str(checkpoint))
    exported = export_model(load_trained(str(checkpoint)), str(tmp_path / "out"))
    assert [one.name for one in verify(str(tmp_path / "out"))] == ["savedmodel"]
    assert find_model(str(exported.folder)) == ("savedmodel", exported.folder)
    write_png(str(tmp_path / "a.png"), pixels(16, 24)[0])
    assert read_image(str(tmp_path / "a.png")).shape == (16, 24, 3)
    images, base = collect_images(str(tmp_path / "a.png"), exclude=str(tmp_path / "result"))
    (result,) = predict_files(
        [str(path) for path in images], predictor.predict, predictor.spec, str(tmp_path / "result"), InferenceOptions(),
        base=str(base),
    )  # fmt: skip
    assert result.ok and result.image == tmp_path / "a.png"
    assert (
        read_state(str(checkpoint)).step == 7 and read_manifest(str(exported.folder)).model == exported.manifest.model
    )
    samples = read_list(str(Path(config.dataset.root) / config.dataset.val_list), config.dataset.root)
    trained = train(
        load_config(str(checkpoint / "config.yml"), ["train.iters=1"]), str(tmp_path / "run"), samples[:2],
        strategy=make_strategy("cpu", None),
    )  # fmt: skip
    assert trained.checkpoint == tmp_path / "run" / "iter_1"
