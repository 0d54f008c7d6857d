from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from rsseg_tf.errors import ExportError
from rsseg_tf.manifest import TRUST_VARIABLE
from rsseg_tf.predictors.operations import check_operations
from tests.fixtures.models import write_model

STRING = [tf.TensorSpec((), tf.string, name="x")]


def save(folder: Path, run: Callable[[tf.Tensor], tf.Tensor]) -> Path:
    module = tf.Module()
    module.scale = tf.Variable(1.0)

    @tf.function(input_signature=STRING)
    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": run(x)}

    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    return folder


def write(x: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([tf.io.write_file("/tmp/never", x)]):
        return tf.identity(x)


def printed(x: tf.Tensor) -> tf.Tensor:
    tf.print(x, output_stream="file:///tmp/never")
    return tf.identity(x)


def hidden(x: tf.Tensor) -> tf.Tensor:
    """In a branch of a loop of a map, three functions down."""
    return tf.map_fn(lambda one: tf.cond(one == b"", lambda: tf.io.read_file(one), lambda: one), x[tf.newaxis])


@pytest.mark.parametrize(
    ("run", "operation"),
    [
        (tf.io.read_file, "ReadFile"),
        (write, "WriteFile"),
        (tf.io.matching_files, "MatchingFiles"),
        (printed, "PrintV2"),
        (hidden, "ReadFile"),
        (lambda x: tf.py_function(lambda y: y, [x], tf.string), "EagerPyFunc"),
        (lambda x: tf.numpy_function(lambda y: y, [x], tf.string), "PyFunc"),
        (lambda x: tf.raw_ops.RestoreV2(prefix=x, tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32])[0],
         "saves or restores files"),
        (lambda x: tf.raw_ops.ImmutableConst(dtype=tf.uint8, shape=(9,), memory_region_name="/etc/hostname"),
         "ImmutableConst"),
        (lambda x: tf.reduce_sum(tf.cast(tf.data.TextLineDataset(x).reduce(np.int64(0), lambda n, _: n + 1), tf.int64)),
         "TextLineDataset|Dataset"),
    ],
    ids=range(10),
)  # fmt: skip
def test_an_operation_that_reaches_beyond_numbers_is_named(
    tmp_path: Path, run: Callable[[tf.Tensor], tf.Tensor], operation: str
) -> None:
    folder = save(tmp_path / "1", run)
    with pytest.raises(ExportError, match=rf"could read or write files or .*: .*({operation}).*--trust"):
        check_operations(folder)


def test_harmless_models_are_opened(tmp_path: Path) -> None:
    """What all SavedModels have (variables that are saved and restored), loops, random numbers, tables and checks."""
    keys = tf.lookup.KeyValueTensorInitializer(["a"], [1])

    class Module(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = tf.lookup.StaticHashTable(keys, 0)

        @tf.function(input_signature=STRING)
        def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            tf.print(x)
            tf.debugging.assert_equal(x, x)
            noise = tf.random.uniform(()) + tf.random.normal(())
            count = tf.while_loop(lambda i: i < 3, lambda i: i + 1, [0])[0]
            return {"y": tf.cast(self.table.lookup(x) + count, tf.float32) + noise}

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "a"), signatures={"serving_default": module.serve})
    check_operations(tmp_path / "a")
    check_operations(write_model(tmp_path / "1"))


@pytest.mark.parametrize("place", ["signature", "initialiser", "function", "restore"])
def test_the_part_that_saves_may_be_called_by_nobody(tmp_path: Path, place: str) -> None:
    folder = write_model(tmp_path / "1", warm_up=False)
    path = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    (graph,) = saved.meta_graphs
    saver = graph.saver_def.save_tensor_name
    if place == "signature":
        graph.signature_def["serving_default"].outputs["class_map"].name = saver
    elif place == "initialiser":
        graph.collection_def["saved_model_main_op"].node_list.value[:] = [saver.partition(":")[0]]
    elif place == "restore":
        graph.saver_def.restore_op_name = saver.partition(":")[0]
    else:
        (name,) = (f.signature.name for f in graph.graph_def.library.function if "traced_save" in f.signature.name)
        graph.object_graph_def.concrete_functions[name].bound_inputs.append(0)
    path.write_bytes(saved.SerializeToString())
    with pytest.raises(ExportError, match="could read or write files .*(saves or restores|writes) files"):
        check_operations(folder)


def test_a_model_that_is_trusted_is_not_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "1", tf.io.read_file)
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    check_operations(folder)


def test_damage_and_other_forms_are_errors(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "1", warm_up=False)
    path = folder / "saved_model.pb"
    data = path.read_bytes()
    (folder / "saved_model.pbtxt").write_text("")
    with pytest.raises(ExportError, match=r"it has a saved_model\.pbtxt, which is not looked into"):
        check_operations(folder)
    (folder / "saved_model.pbtxt").unlink()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ExportError, match="is damaged: it is no SavedModel"):
        check_operations(folder)
    path.unlink()
    with pytest.raises(ExportError, match="cannot be read: No such file"):
        check_operations(folder)


@pytest.mark.parametrize("location", ["../secret.bin", "{}/secret.bin", "link.bin"])
def test_an_onnx_file_reads_nothing_outside_of_its_folder(tmp_path: Path, location: str) -> None:
    from rsseg_tf.predictors import load_onnx

    (tmp_path / "secret.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to("../secret.bin")
    weights = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location.format(tmp_path))
    values = [onnx.helper.make_tensor_value_info(name, 1, [4]) for name in ("x", "y")]
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", values[:1], values[1:], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    model.ir_version = 8
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="External data path"):
        load_onnx(folder / "model.onnx")


def test_a_tflite_file_without_graphs_is_an_error_and_no_crash(tmp_path: Path) -> None:
    from rsseg_tf.predictors.tables import check_tables

    @tf.function(input_signature=[tf.TensorSpec((1, 4), tf.float32, name="pixels")])
    def double(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": 2.0 * pixels}

    tf.saved_model.save(tf.Module(), str(tmp_path / "x"), signatures={"serving_default": double})
    content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "x")).convert()
    check_tables(content)
    root = int.from_bytes(content[:4], "little")
    table = root - int.from_bytes(content[root : root + 4], "little", signed=True)
    damaged = bytearray(content)
    damaged[table + 8 : table + 10] = bytes(2)  # where the third field of the model, its graphs, would be found
    with pytest.raises(ValueError, match="holds no graph"):
        check_tables(bytes(damaged))
