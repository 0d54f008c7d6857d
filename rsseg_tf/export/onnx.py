"""ONNX files through tf2onnx, and OpenVINO models from them.

Keras's own exporter to ONNX calls tf2onnx too, but takes a model as it is: normalisation, class map and names of inputs
and outputs could not be part of the file.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from rsseg_tf.errors import ExportError, reason
from rsseg_tf.export.trained import TrainedModel
from rsseg_tf.extras import require
from rsseg_tf.files import StrPath
from rsseg_tf.layers import converting
from rsseg_tf.manifest import MANIFEST_PROPERTY, Artifact
from rsseg_tf.rasters.windows import Size

__all__ = ["OPSET", "convert", "save", "write_onnx", "write_openvino"]

# Version of the operators; tf2onnx 1.17 writes up to 18, and ONNX Runtime has read it since version 1.14.
OPSET = 18

# Names of the sizes of input and outputs; a class map has the first three of the latter.
_CHANNELS_FIRST = ("batch", "{channels}", "height", "width")
_CHANNELS_LAST = ("batch", "height", "width", "{channels}")
_OUTPUTS = ("class_map", "confidence", "logits")


def write_onnx(trained: TrainedModel, folder: StrPath, *, tile: Size | None = None) -> Artifact:
    """Writes `model.onnx` into `folder`, checked by `onnx.checker`.

    It takes `pixels` (B, H, W, bands) and gives `class_map` (B, H, W) uint8, `confidence` (B, H, W) float32, the
    probability of that class, and `logits` (B, H, W, classes) float32. Free sizes are called
    `batch`, `height` and `width` in all of them. The manifest is among its properties.

    Args:
        trained: The model.
        folder: Folder to write to.
        tile: Size of the input; None for any size.

    Raises:
        ExportError: When the model cannot be an ONNX file, or the extra `onnx` is not installed.
    """
    artifact = trained.describe("onnx", "model.onnx", _OUTPUTS, tile)
    model = convert(trained, trained.outputs, trained.input_spec(tile), _OUTPUTS)
    save(model, Path(folder) / artifact.path, {MANIFEST_PROPERTY: trained.manifest_of(artifact)})
    return artifact


def convert(
    trained: TrainedModel,
    outputs: Callable[[tf.Tensor], dict[str, tf.Tensor]],
    signature: tf.TypeSpec,
    names: Sequence[str],
    *,
    channels_first: bool = False,
) -> Any:
    """Returns the outputs of a model as an ONNX model of the standard's operators alone.

    Args:
        trained: The model, for messages and for what only TensorFlow runs.
        outputs: From the input to the outputs by name, in a graph.
        signature: The input.
        names: Names of the outputs.
        channels_first: Whether input and outputs are (B, channels, H, W) instead of (B, H, W, channels).

    Raises:
        ExportError: When the model cannot be an ONNX file, or the extra `onnx` is not installed.
    """
    trained.refuse_unless_static("An ONNX file")
    onnx, tf2onnx = require("onnx", "onnx"), require("tf2onnx", "onnx")
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)  # it announces every step
    try:
        with converting(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tf2onnx about the NumPy and TensorFlow that it was written for
            function = tf.function(outputs, input_signature=[signature]).get_concrete_function()
            model = _translated(tf2onnx, function)
    except (ValueError, RuntimeError, KeyError) as error:
        said = str(error).strip().splitlines()
        raise ExportError(
            f"tf2onnx cannot convert {trained.manifest.model}: {said[0] if said else type(error).__name__}. "
            "Export it as savedmodel."
        ) from error
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    found = [output.name for output in model.graph.output]
    if foreign or sorted(found) != sorted(names):
        raise ExportError(
            f"tf2onnx wrote a graph with operators of {foreign or 'the standard'} and outputs {found}; the standard's "
            f"alone and {', '.join(names)} are expected. Export the model as savedmodel."
        )
    _state_paddings(model, onnx.helper)
    _spell_out_erfc(model, onnx.helper)
    _name_sizes(model, _CHANNELS_FIRST if channels_first else _CHANNELS_LAST)
    return model


def _translated(tf2onnx: Any, function: Any) -> Any:
    """Returns a concrete function as an ONNX model.

    These are the steps of `tf2onnx.convert.from_function`, which holds the weights of each until the last one is over,
    and leaves to chance when Python drops the copies that its optimisers make: dozens, with weights and all.
    """

    def after_dropping(factory: Callable[[], Any]) -> Any:
        drop()  # what optimisers before have made anew
        return factory()

    optimizer = require("tf2onnx.optimizer", "onnx")
    made = optimizer._get_optimizers()
    optimizers = {name: functools.partial(after_dropping, factory) for name, factory in made.items()}
    with _garbage_dropped() as drop, tf.device("/cpu:0"):
        # No name holds the graph that comes in.
        graph = optimizer.optimize_graph(_as_operators(tf2onnx, function, drop), optimizers=optimizers)
        return graph.make_model(f"converted from {function.name}")


def _as_operators(tf2onnx: Any, function: Any, drop: Callable[[], object]) -> Any:
    """Returns a concrete function as tf2onnx's graph of ONNX operators, as it is before the optimisers."""
    inputs = [tensor.name for tensor in function.inputs if tensor.dtype != tf.resource]
    outputs = [tensor.name for tensor in function.outputs]
    graph_def = _frozen(function)
    drop()
    with tf.Graph().as_default():  # an empty one, without which TensorFlow refuses
        graph_def = tf2onnx.tf_loader.tf_optimize(inputs, outputs, graph_def)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        del graph_def
        return tf2onnx.tfonnx.process_tf_graph(
            graph,
            continue_on_error=True,
            opset=OPSET,
            input_names=inputs,
            output_names=outputs,
            tensors_to_rename=tf2onnx.convert.tensor_names_from_structed(function, inputs, outputs),
        )


def _frozen(function: Any) -> Any:
    """Returns the graph of a concrete function with its weights inside."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=True)
    return frozen.graph.as_graph_def(add_shapes=True)


@contextlib.contextmanager
def _garbage_dropped() -> Iterator[Callable[[], object]]:
    """Yields a function that drops objects made since that hold each other, without a look at older ones."""
    gc.collect()
    gc.freeze()
    try:
        yield gc.collect
    finally:
        gc.unfreeze()


def save(model: Any, path: Path, properties: Mapping[str, str]) -> None:
    """Writes an ONNX model with texts among its properties, checked by `onnx.checker`."""
    onnx = require("onnx", "onnx")
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def write_openvino(trained: TrainedModel, folder: StrPath, onnx_file: StrPath, *, tile: Size | None = None) -> Artifact:
    """Writes `model_openvino.xml` and `.bin` into `folder`, from an ONNX file; inputs and outputs are the same.

    Raises:
        ExportError: When OpenVINO cannot read the file, or the extra `openvino` is not installed.
    """
    folder = Path(folder)
    onnx_file = Path(onnx_file)
    openvino = require("openvino", "openvino")
    artifact = trained.describe("openvino", "model_openvino.xml", _OUTPUTS, tile)
    manifest = trained.manifest_of(artifact)
    try:
        model = openvino.convert_model(str(onnx_file))
    except RuntimeError as error:
        said = " ".join(str(error).split())[:300]
        raise ExportError(
            f"OpenVINO cannot convert {trained.manifest.model}: {said}. Name a fixed size with --tile, or run the "
            "ONNX file."
        ) from error
    # The file has no place for free text but its runtime information.
    model.set_rt_info(manifest, ["rsseg_tf", MANIFEST_PROPERTY])
    try:
        openvino.save_model(model, str(folder / artifact.path), compress_to_fp16=False)
    except RuntimeError as error:  # such as a full disk
        raise OSError(reason(error)) from error
    return artifact


def _state_paddings(model: Any, helper: Any) -> None:
    """Writes the padding of dilated convolutions as numbers.

    Where sizes are free tf2onnx leaves it at "as much as keeps the size", which ONNX Runtime refuses with dilation. All
    of ours have a stride of 1 and odd kernels, so that it does not depend on the size.
    """
    for node in model.graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        dilations, strides = attributes.get("dilations", [1]), attributes.get("strides", [1])
        if node.op_type != "Conv" or max(dilations) == 1 or not attributes.get("auto_pad", b"").startswith(b"SAME"):
            continue
        sizes = attributes["kernel_shape"]
        if max(strides) > 1 or not all(size % 2 for size in sizes):
            raise ExportError(
                f"The dilated convolution {node.name} has strides {list(strides)} and a kernel of {list(sizes)}; "
                "strides of 1 and odd kernels are needed in an ONNX file. Export the model as savedmodel."
            )
        kept = [attribute for attribute in node.attribute if attribute.name not in ("auto_pad", "pads")]
        margins = [dilation * (size - 1) // 2 for dilation, size in zip(dilations, sizes, strict=True)]
        del node.attribute[:]  # a repeated field cannot be assigned
        # Twice: the margins above and on the left come first, then those below and on the right.
        node.attribute.extend([*kept, helper.make_attribute("pads", margins * 2)])


def _spell_out_erfc(model: Any, helper: Any) -> None:
    """Writes erfc(x), of TensorFlow's GELU, as 1 - erf(x): the standard has no such operator, which tf2onnx ignores."""
    nodes = list(model.graph.node)
    if not any(node.op_type == "Erfc" for node in nodes):
        return
    one = "erfc_one"
    model.graph.initializer.append(helper.make_tensor(one, 1, (), [1.0]))  # 1 is float32
    written = []
    for node in nodes:
        if node.op_type == "Erfc":
            erf = f"{node.output[0]}_erf"
            written += [
                helper.make_node("Erf", node.input, [erf], name=f"{node.name}_erf"),
                helper.make_node("Sub", [one, erf], node.output, name=node.name),
            ]
        else:
            written.append(node)
    del model.graph.node[:]
    model.graph.node.extend(written)


def _name_sizes(model: Any, layout: Sequence[str]) -> None:
    """Names the free sizes of inputs and outputs, which programs show and set by name; tf2onnx numbers them."""
    graph = model.graph
    for value, channels in [(one, "bands") for one in graph.input] + [(one, "classes") for one in graph.output]:
        for size, name in zip(value.type.tensor_type.shape.dim, layout, strict=False):
            if not size.HasField("dim_value"):
                size.dim_param = name.format(channels=channels)
