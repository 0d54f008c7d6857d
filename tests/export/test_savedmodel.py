"""A SavedModel must serve those who have neither this package nor Keras, through each of TensorFlow's loaders."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.errors import ExportError
from rsseg_tf.export import TrainedModel, write_savedmodel
from rsseg_tf.manifest import Manifest
from rsseg_tf.predictors import open_predictor
from tests.fixtures.checkpoints import pixels


@pytest.fixture(scope="module")
def folder(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "1"
    write_savedmodel(trained, folder)
    return folder


@pytest.mark.parametrize("size", [(32, 32), (45, 61)])
def test_the_signatures_say_what_the_keras_model_says(
    trained: TrainedModel, folder: Path, size: tuple[int, int]
) -> None:
    image = pixels(*size)
    expected = trained.predict(image)
    module = tf.saved_model.load(str(folder))
    outputs = {name: module.signatures[name](pixels=image) for name in ("serving_default", "probabilities", "logits")}
    np.testing.assert_allclose(outputs["logits"]["logits"], expected, atol=1e-5)
    probabilities = outputs["probabilities"]["probabilities"].numpy()
    np.testing.assert_allclose(probabilities, tf.nn.softmax(expected), atol=1e-5)
    answer = outputs["serving_default"]
    assert set(answer) == {"class_map", "confidence"}
    assert answer["class_map"].dtype == "uint8" and answer["confidence"].dtype == "float32"
    np.testing.assert_array_equal(answer["class_map"], expected.argmax(-1))
    assert len(np.unique(answer["class_map"])) == 2, "a model that always says the same would prove nothing"
    np.testing.assert_allclose(answer["confidence"], probabilities.max(-1), atol=1e-6)


def test_encoded_images_come_back_as_label_pngs(trained: TrainedModel, folder: Path) -> None:
    image = pixels(33, 40)
    files = [cv2.imencode(".png", one[..., ::-1])[1].tobytes() for one in image]
    module = tf.saved_model.load(str(folder))
    (name,) = module.signatures["predict_bytes"].structured_outputs
    assert name == "class_map_png_bytes", "TensorFlow Serving encodes strings as base64 where the name ends in _bytes"
    encoded = module.signatures["predict_bytes"](image_bytes=tf.constant(files))[name].numpy()
    labels = [cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_UNCHANGED) for one in encoded]
    np.testing.assert_array_equal(labels, trained.predict(image).argmax(-1))


def test_each_weight_is_stored_once_and_has_one_handle(trained: TrainedModel, folder: Path) -> None:
    with tf.Graph().as_default() as loaded, tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.loader.load(session, ["serve"], str(folder))
        nodes = loaded.as_graph_def().node
    handles = [node.attr["shared_name"].s.decode() for node in nodes if node.op == "VarHandleOp"]
    counter = "Variable"  # of TensorFlow's own, in every SavedModel
    assert sorted(set(handles) - {counter}) == sorted(weight.path for weight in trained.model.weights)
    assert len(handles) == len(set(handles))
    stored = [name for name, _ in tf.train.list_variables(str(folder / "variables" / "variables"))]
    assert len([name for name in stored if "VARIABLE_VALUE" in name]) == len(trained.model.weights)


def test_the_loader_of_tensorflow_serving_runs_it(trained: TrainedModel, folder: Path) -> None:
    """A Keras model as an attribute of the module would pass every other test and fail this one."""
    image = pixels(32, 48)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signature = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(folder)).signature_def["logits"]
        logits = session.run(signature.outputs["logits"].name, {signature.inputs["pixels"].name: image})
    np.testing.assert_allclose(logits, trained.predict(image), atol=1e-5)


def run_python(code: str, *arguments: str) -> str:
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd="/")
    assert result.returncode == 0, result.stderr
    return result.stdout


WITHOUT_KERAS = """
import sys
sys.modules["keras"] = sys.modules["rsseg_tf"] = None
import numpy as np, tensorflow as tf
module = tf.saved_model.load(sys.argv[1])
np.save(sys.argv[3], module.signatures["logits"](pixels=np.load(sys.argv[2]))["logits"])
"""


def test_it_loads_without_keras_and_without_this_package(trained: TrainedModel, folder: Path, tmp_path: Path) -> None:
    image = pixels(24, 32)
    np.save(tmp_path / "image.npy", image)
    run_python(WITHOUT_KERAS, str(folder), str(tmp_path / "image.npy"), str(tmp_path / "logits.npy"))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), trained.predict(image), atol=1e-5)


C_API = r"""
import ctypes, os, sys
from importlib.util import find_spec
folder, input_name, output_name, image_file, logits_file, shape = sys.argv[1:7]
package = os.path.dirname(find_spec("tensorflow").origin)
ctypes.CDLL(os.path.join(package, "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
tf = ctypes.CDLL(os.path.join(package, "libtensorflow_cc.so.2"), ctypes.RTLD_GLOBAL)
pointer, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
for name in ("TF_NewStatus", "TF_NewSessionOptions", "TF_NewGraph", "TF_LoadSessionFromSavedModel",
             "TF_GraphOperationByName", "TF_AllocateTensor", "TF_TensorData"):
    getattr(tf, name).restype = pointer
tf.TF_Message.restype, tf.TF_TensorByteSize.restype = text, size

class Output(ctypes.Structure):
    _fields_ = [("operation", pointer), ("index", ctypes.c_int)]

def check(status):
    if tf.TF_GetCode(pointer(status)):
        sys.exit(tf.TF_Message(pointer(status)).decode())

status, options, graph = tf.TF_NewStatus(), tf.TF_NewSessionOptions(), tf.TF_NewGraph()
tags = (text * 1)(b"serve")
session = tf.TF_LoadSessionFromSavedModel(
    pointer(options), None, text(folder.encode()), tags, 1, pointer(graph), None, pointer(status))
check(status)

def output(name):
    operation, _, index = name.partition(":")
    return Output(tf.TF_GraphOperationByName(pointer(graph), text(operation.encode())), int(index))

image = open(image_file, "rb").read()
dimensions = [int(part) for part in shape.split(",")]
tensor = tf.TF_AllocateTensor(4, (ctypes.c_int64 * 4)(*dimensions), 4, size(len(image)))  # 4: uint8
ctypes.memmove(tf.TF_TensorData(pointer(tensor)), image, len(image))
results = (pointer * 1)()
tf.TF_SessionRun(
    pointer(session), None, (Output * 1)(output(input_name)), (pointer * 1)(tensor), 1,
    (Output * 1)(output(output_name)), results, 1, None, 0, None, pointer(status))
check(status)
count = tf.TF_TensorByteSize(pointer(results[0]))
open(logits_file, "wb").write(ctypes.string_at(tf.TF_TensorData(pointer(results[0])), count))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library has another name elsewhere")
def test_the_c_library_runs_it(trained: TrainedModel, folder: Path, tmp_path: Path) -> None:
    image = pixels(24, 32)
    (tmp_path / "image").write_bytes(image.tobytes())
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signature = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(folder)).signature_def["logits"]
    run_python(
        C_API, str(folder), signature.inputs["pixels"].name, signature.outputs["logits"].name,
        str(tmp_path / "image"), str(tmp_path / "logits"), ",".join(map(str, image.shape)),
    )  # fmt: skip
    logits = np.frombuffer((tmp_path / "logits").read_bytes(), np.float32).reshape(*image.shape[:3], 2)
    np.testing.assert_allclose(logits, trained.predict(image), atol=1e-5)


def test_the_manifest_is_an_asset(trained: TrainedModel, folder: Path) -> None:
    inside = Manifest.from_json((folder / "assets" / "manifest.json").read_text("utf-8"), "inside")
    assert inside.model == "fcn_resnet18_vd"
    assert inside.spec == trained.spec
    signatures = ("serving_default", "probabilities", "logits", "predict_bytes", "manifest")
    assert inside.artifacts[0].signatures == signatures
    assert json.loads(trained.manifest_of(inside.artifacts[0])) == json.loads(inside.to_json())
    told = tf.saved_model.load(str(folder)).signatures["manifest"](query=tf.constant(["", "again"]))["manifest_json"]
    assert [Manifest.from_json(text, "told") for text in told.numpy()] == [inside, inside]


@pytest.mark.skipif(importlib.util.find_spec("tensorflow_serving") is None, reason="extra serving is not installed")
def test_warm_up_requests_are_those_of_tensorflow_serving(folder: Path) -> None:
    from tensorflow_serving.apis import prediction_log_pb2

    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))
    ]
    requests = [log.predict_log.request for log in logs]
    assert [request.model_spec.signature_name for request in requests] == ["serving_default", "probabilities", "logits"]
    module = tf.saved_model.load(str(folder))
    for request in requests:
        image = tf.make_ndarray(request.inputs["pixels"])
        assert image.shape == (1, 32, 32, 3) and image.dtype == np.uint8
        assert module.signatures[request.model_spec.signature_name](pixels=image)


def test_a_damaged_one_is_named(folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "1"
    damaged.mkdir()
    (damaged / "saved_model.pb").write_bytes(b"nothing")
    with pytest.raises(ExportError, match="1 is damaged, or no SavedModel that `rsseg-tf export` wrote"):
        open_predictor(damaged)
    (damaged / "assets").mkdir()
    (damaged / "assets" / "manifest.json").write_bytes((folder / "assets" / "manifest.json").read_bytes())
    with pytest.raises(ExportError, match=r"1/saved_model\.pb is damaged: it is no SavedModel"):
        open_predictor(damaged)


def test_there_are_no_other_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "assets", "assets.extra", "fingerprint.pb", "saved_model.pb", "variables",
    ]  # fmt: skip
