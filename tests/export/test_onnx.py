"""ONNX files in ONNX Runtime, and OpenVINO models, for any size or one."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tf2onnx", reason="extra onnx is not installed")
import onnx
import onnxruntime

from rsseg_tf.errors import ExportError
from rsseg_tf.export import TrainedModel, load_trained, write_onnx, write_openvino
from rsseg_tf.export.deepness import write_deepness
from rsseg_tf.export.onnx import _CHANNELS_FIRST, _CHANNELS_LAST, _name_sizes
from rsseg_tf.manifest import Manifest
from rsseg_tf.predictors import load_onnx, open_predictor
from rsseg_tf.rasters.windows import Size
from tests.fixtures.checkpoints import pixels, write_checkpoint

DEEPLAB = (
    "model={name: deeplabv3plus, backbone: {name: resnet18_vd}, aspp_channels: 8, decoder_channels: 8, "
    "low_level_channels: 4}"
)


@pytest.fixture(scope="module")
def file(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    return folder / write_onnx(trained, folder).path


@pytest.mark.parametrize("size", [(32, 32), (33, 61)])
def test_all_outputs_are_those_of_the_keras_model(trained: TrainedModel, file: Path, size: tuple[int, int]) -> None:
    image = pixels(*size)
    expected = trained.predict(image)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    answer = dict(zip([one.name for one in session.get_outputs()], session.run(None, {"pixels": image}), strict=True))
    assert sorted(answer) == ["class_map", "confidence", "logits"]
    np.testing.assert_allclose(answer["logits"], expected, atol=1e-5)
    np.testing.assert_array_equal(answer["class_map"], expected.argmax(-1))
    assert answer["class_map"].dtype == np.uint8
    powers = np.exp(expected - expected.max(-1, keepdims=True))
    np.testing.assert_allclose(answer["confidence"], (powers / powers.sum(-1, keepdims=True)).max(-1), atol=1e-5)


def test_few_copies_of_the_weights_are_held_at_once(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tf2onnx copies the graph before each of dozens of optimisations, and the copies hold themselves.

    They have the weights inside, and PSPNet's export took 24 GiB.
    """
    from tf2onnx.graph import Graph
    from tf2onnx.optimizer.optimizer_base import GraphOptimizerBase

    held = []
    optimize = GraphOptimizerBase.optimize

    def counted(self: GraphOptimizerBase, graph: Graph, iteration: int) -> Graph:
        held.append(sum(isinstance(one, Graph) for one in gc.get_objects()))
        return optimize(self, graph, iteration)

    monkeypatch.setattr(GraphOptimizerBase, "optimize", counted)
    write_onnx(trained, tmp_path, tile=Size(32, 32))
    assert len(held) > 20  # times that the graph was copied
    assert max(held) <= 2  # what an optimiser works on, and what it was copied from
    assert gc.get_freeze_count() == 0


def sizes_in(path: Path) -> dict[str, list[str | int]]:
    """Sizes of inputs and outputs by name, as the file has them and as ONNX Runtime tells them."""
    graph = onnx.load(str(path)).graph
    written = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert written == {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    return written


@pytest.mark.parametrize("tile", [None, Size(32, 48)], ids=["any size", "one size"])
def test_free_sizes_have_names(trained: TrainedModel, tmp_path: Path, tile: Size | None) -> None:
    sizes = sizes_in(tmp_path / write_onnx(trained, tmp_path, tile=tile).path)
    free = ["batch", *(tile or ("height", "width"))]
    assert sizes == {"pixels": [*free, 3], "class_map": free, "confidence": free, "logits": [*free, 2]}


def test_free_sizes_can_be_set_by_name(trained: TrainedModel, file: Path) -> None:
    """What runtimes for devices ask for: `onnxruntime.tools.make_dynamic_shape_fixed` does the same."""
    options = onnxruntime.SessionOptions()
    for name, size in (("batch", 2), ("height", 40), ("width", 24)):
        options.add_free_dimension_override_by_name(name, size)
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [2, 40, 24, 3]
    logits = session.run(["logits"], {"pixels": pixels(40, 24)})[0]
    np.testing.assert_allclose(logits, trained.predict(pixels(40, 24)), atol=1e-5)


def test_a_file_for_deepness_names_its_batch(trained: TrainedModel, tmp_path: Path) -> None:
    sizes = sizes_in(tmp_path / write_deepness(trained, tmp_path, tile=Size(32, 32)).path)
    assert sizes == {"pixels": ["batch", 3, 32, 32], "probabilities": ["batch", 2, 32, 32]}


def test_sizes_of_channels_are_named_by_what_they_count() -> None:
    """Ours are known; a model of someone's own may leave them free."""
    values = [onnx.helper.make_tensor_value_info(name, 1, ["a", "b", "c", "d"]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    model = onnx.helper.make_model(graph)
    for layout, place in ((_CHANNELS_LAST, 3), (_CHANNELS_FIRST, 1)):
        _name_sizes(model, layout)
        for value, name in ((model.graph.input[0], "bands"), (model.graph.output[0], "classes")):
            names = [size.dim_param for size in value.type.tensor_type.shape.dim]
            assert names.pop(place) == name and names == ["batch", "height", "width"]


def test_the_manifest_is_among_the_properties(trained: TrainedModel, file: Path) -> None:
    properties = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
    inside = Manifest.from_json(properties["rsseg_tf_manifest"], "inside")
    assert inside.spec == trained.spec
    assert inside == load_onnx(file, threads=1).manifest
    assert inside.artifacts[0].input.shape == (None, None, None, 3)


@pytest.mark.parametrize("tile", [None, Size(32, 48)], ids=["any size", "one size"])
def test_dilated_convolutions_run(tmp_path: Path, tile: Size | None) -> None:
    """ONNX Runtime refuses dilation where the padding is said to be "same"."""
    checkpoint, config = write_checkpoint(tmp_path, DEEPLAB)
    trained = load_trained(checkpoint, config)
    image = pixels(*(tile or (37, 41)))
    path = tmp_path / write_onnx(trained, tmp_path, tile=tile).path
    dilated = [
        node
        for node in onnx.load(str(path)).graph.node
        if node.op_type == "Conv" and any(one.name == "dilations" and max(one.ints) > 1 for one in node.attribute)
    ]
    assert len(dilated) >= 3
    np.testing.assert_allclose(open_predictor(path).predict(image), trained.predict(image), atol=1e-5)


@pytest.mark.parametrize("tile", [None, Size(32, 48)], ids=["any size", "one size"])
def test_openvino(trained: TrainedModel, tmp_path: Path, tile: Size | None) -> None:
    pytest.importorskip("openvino", reason="extra openvino is not installed")
    artifact = write_openvino(trained, tmp_path, tmp_path / write_onnx(trained, tmp_path, tile=tile).path, tile=tile)
    predictor = open_predictor(tmp_path / artifact.path, threads=1)
    assert predictor.kind == "openvino" and predictor.tile == tile and predictor.spec == trained.spec
    image = pixels(32, 48)
    np.testing.assert_allclose(predictor.predict(image), trained.predict(image), atol=1e-5)
    (tmp_path / artifact.path).write_text("<net/>", "utf-8")
    with pytest.raises(ExportError, match="no OpenVINO model that `rsseg-tf export` wrote"):
        open_predictor(tmp_path / artifact.path)


@pytest.mark.parametrize("content", [b"", b"nothing"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=r"a\.onnx is damaged, or no ONNX file that `rsseg-tf export` wrote"):
        open_predictor(tmp_path / "a.onnx")


def test_an_onnx_file_of_someone_else_is_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [other])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, str(tmp_path / "a.onnx"))
    with pytest.raises(ExportError, match=r"a\.onnx has no manifest, .*`rsseg-tf export` did not write it"):
        open_predictor(tmp_path / "a.onnx")
