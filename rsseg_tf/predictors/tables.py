"""Checks the tables of a TFLite file before LiteRT runs them: it follows wrong numbers out of its memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rsseg_tf.extras import require

__all__ = ["check_tables"]

_ABSENT = -1  # stands for an input that an operator does without


def check_tables(content: bytes) -> None:
    """Checks that every index in the tables of a TFLite file is within the table that it points to.

    Args:
        content: Content of the file.

    Raises:
        ValueError: When one is not.
        Exception: Of whatever type, when the file is so damaged that its tables cannot be followed.
        ExportError: When the extra `tflite` is not installed.
    """
    schema = require("ai_edge_litert.schema_py_generated", "tflite")
    model = schema.Model.GetRootAsModel(content, 0)
    graphs = [model.Subgraphs(index) for index in range(model.SubgraphsLength())]
    if not graphs:
        raise ValueError("it holds no graph")
    for graph in graphs:
        for what, number, count in _references(model, graph):
            if not 0 <= number < count:
                raise ValueError(f"it names {what} {number} of {count}")
    for index in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(index)
        if signature.SubgraphIndex() >= len(graphs):
            raise ValueError(f"it names graph {signature.SubgraphIndex()} of {len(graphs)}")
        # The numbers in a signature are unsigned, so that there is no lower bound to check.
        tensors = graphs[signature.SubgraphIndex()].TensorsLength()
        named = [signature.Inputs(at).TensorIndex() for at in range(signature.InputsLength())]
        named += [signature.Outputs(at).TensorIndex() for at in range(signature.OutputsLength())]
        if any(number >= tensors for number in named):
            raise ValueError(f"a signature names a tensor that is none of {tensors}")


def _references(model: Any, graph: Any) -> Iterator[tuple[str, int, int]]:
    """Yields each reference: the kind of its target, its index, and the number of such targets."""
    tensors = graph.TensorsLength()
    for index in range(tensors):
        yield "buffer", graph.Tensors(index).Buffer(), model.BuffersLength()
    for index in range(graph.InputsLength()):
        yield "tensor", graph.Inputs(index), tensors
    for index in range(graph.OutputsLength()):
        yield "tensor", graph.Outputs(index), tensors
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        yield "operator code", operator.OpcodeIndex(), model.OperatorCodesLength()
        for at in range(operator.InputsLength()):
            if operator.Inputs(at) != _ABSENT:
                yield "tensor", operator.Inputs(at), tensors
        for at in range(operator.OutputsLength()):
            yield "tensor", operator.Outputs(at), tensors
