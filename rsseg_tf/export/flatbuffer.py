"""A look into TFLite files: which operators they hold, and the types of their inputs and outputs."""

from __future__ import annotations

import tempfile
from collections import Counter
from typing import Any

from rsseg_tf.errors import ExportError
from rsseg_tf.extras import require

__all__ = ["activations", "check_operators", "operators", "tensor_types"]

# What is left of a dilated convolution where the converter did not recognise it: right, but several times slower.
_UNFUSED = {"SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"}


def operators(content: bytes) -> Counter[str]:
    """Counts the operators of a TFLite file, by the names of the schema; those that are not built in as `custom NAME`.

    Raises:
        ExportError: When the extra `tflite` is not installed.
    """
    schema = _schema()
    names = _names(schema.BuiltinOperator)
    model = schema.Model.GetRootAsModel(content, 0)
    counts: Counter[str] = Counter()
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        for position in range(graph.OperatorsLength()):
            code = model.OperatorCodes(graph.Operators(position).OpcodeIndex())
            # Numbers up to 127 stood in a byte once, and stand there still.
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            custom = code.CustomCode()
            counts[f"custom {custom.decode()}" if custom else names[number]] += 1
    return counts


def check_operators(content: bytes) -> None:
    """Raises ExportError when LiteRT alone cannot run a file, or dilated convolutions were torn apart in it."""
    found = operators(content)
    foreign = sorted(name for name in found if name.startswith("custom "))
    if foreign:
        raise ExportError(
            f"The TFLite file needs operators that LiteRT does not bring: {', '.join(foreign)}. Export the model as "
            "onnx or savedmodel."
        )
    torn = sorted(_UNFUSED & set(found))
    if torn:
        raise ExportError(
            f"The TFLite file holds {', '.join(torn)}: a dilated convolution was not recognised as one operation. "
            "Use rsseg_tf.layers.DilatedConv2D and DilatedDepthwiseConv2D in the model."
        )


def activations(content: bytes) -> list[int]:
    """Returns the indices of the float32 tensors that the operators of a TFLite file give."""
    schema = _schema()
    graph = schema.Model.GetRootAsModel(content, 0).Subgraphs(0)
    found = set()
    for position in range(graph.OperatorsLength()):
        operator = graph.Operators(position)
        found |= {operator.Outputs(i) for i in range(operator.OutputsLength())}
    return sorted(index for index in found if graph.Tensors(index).Type() == schema.TensorType.FLOAT32)


def tensor_types(content: bytes) -> dict[str, tuple[str, float, int]]:
    """Returns (dtype, scale, zero point) of each input and output, by their names in the signature.

    The scale is 0 where values are as they are.

    Raises:
        ExportError: When there is no signature: where the converter cannot write its temporary files, it takes another
            way without signatures, and without an error.
    """
    schema = _schema()
    names = _names(schema.TensorType)
    model = schema.Model.GetRootAsModel(content, 0)
    # The names "pixels" and "logits" stand in the signature alone; tensors have names of the graph.
    if model.SignatureDefsLength() == 0:
        raise ExportError(
            "The TFLite file has no signature, because the converter could not write its temporary files to "
            f"{tempfile.gettempdir()}. Check the free space and the permissions there."
        )
    signature, graph = model.SignatureDefs(0), model.Subgraphs(0)
    entries = [signature.Inputs(i) for i in range(signature.InputsLength())]
    entries += [signature.Outputs(i) for i in range(signature.OutputsLength())]
    types = {}
    for entry in entries:
        tensor = graph.Tensors(entry.TensorIndex())
        scale, zero_point = 0.0, 0
        # A tensor of floats may have parameters too: the range that was seen, without a scale.
        if (parameters := tensor.Quantization()) is not None and parameters.ScaleLength():
            scale, zero_point = float(parameters.Scale(0)), int(parameters.ZeroPoint(0))
        types[entry.Name().decode()] = (names[tensor.Type()].lower(), scale, zero_point)
    return types


def _names(enumeration: Any) -> dict[int, str]:
    """Returns the names of an enumeration, which the generated code has as a class with numbers."""
    return {number: name for name, number in vars(enumeration).items() if not name.startswith("_")}


def _schema() -> Any:
    return require("ai_edge_litert.schema_py_generated", "tflite")
