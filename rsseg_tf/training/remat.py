"""Rematerialisation: activations are computed again in the backward pass instead of being kept.

Chen et al., Training Deep Nets with Sublinear Memory Cost, https://arxiv.org/abs/1604.06174.

Keras's own `RematScope` works layer by layer, which saves nothing here: the input of each convolution would be kept. So
a functional model is cut into segments of several layers, and only what one segment hands to later ones is kept.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

__all__ = ["rematerialise"]

# Side of the images, and their number, by which activations are weighed where a model takes any size.
_SIDE, _BATCH = 256, 2
# Shares of all activations that a segment may have; the best is taken.
_SHARES = tuple(2.0 ** (-step / 2) for step in range(4, 14))


def rematerialise(model: keras.Model) -> int:
    """Makes a model keep few activations in training; from then on it computes the others twice.

    Outputs, gradients and updates of variables are what they were: running statistics move once, and dropout draws the
    same masks in both passes. Calls with `training` not True, variables and their paths do not change. It may be called
    before or after weights are loaded; attributes of layers, such as `synchronized`, may change until the first step.

    Args:
        model: Its functional models are cut, itself and those within its layers (c2fnet, methods of pre-training).

    Returns:
        The number of segments that are computed twice.
    """
    segments = 0
    for part in model._flatten_layers():
        if isinstance(part, keras.Function) and not isinstance(part.call, _InSegments):
            part.call = _InSegments(part)
            segments += len(part.call.segments) - 1
    return segments


@dataclass(frozen=True)
class _Segment:
    """Nodes of a functional model that follow each other.

    Attributes:
        nodes: In the order in which they can run.
        inputs: Ids of the tensors that it takes from earlier segments.
        outputs: Ids of the tensors that it hands on, or that are the model's.
    """

    nodes: tuple[Any, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def seeds(self) -> list[keras.Variable]:
        """The states from which its layers draw random numbers."""
        layers = [node.operation for node in self.nodes if isinstance(node.operation, keras.layers.Layer)]
        return [variable for layer in layers for variable in layer.non_trainable_variables if _is_seed(variable)]

    def run(self, tensors: Sequence[Any], training: bool) -> list[Any]:
        """Returns the outputs for the inputs."""
        known = dict(zip(self.inputs, tensors, strict=True))
        for node in self.nodes:
            args, kwargs = node.arguments.fill_in(known)
            if "training" in getattr(node.operation, "_call_context_args", {}):
                kwargs["training"] = training
            results = keras.tree.flatten(node.operation(*args, **kwargs))
            known.update(zip(map(id, node.outputs), results, strict=True))
        return [known[key] for key in self.outputs]


class _InSegments:
    """The `call` of a functional model whose segments but the last are computed again in the backward pass.

    The last one's activations are needed as soon as the backward pass begins, so keeping them costs nothing.
    """

    def __init__(self, model: Any) -> None:
        self.plain = model.call
        self.inputs = tuple(id(tensor) for tensor in model.inputs)
        self.outputs = tuple(id(tensor) for tensor in model.outputs)
        self.structure = keras.tree.map_structure(id, model.output)
        self.segments = _segments(model)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, inputs: Any, training: bool | None = None, mask: Any = None, **options: Any) -> Any:
        """Calls the model; arguments and result as those of `keras.Model.call`."""
        if not training or mask is not None or options:
            return self.plain(inputs, training=training, mask=mask, **options)
        known = dict(zip(self.inputs, map(tf.convert_to_tensor, keras.tree.flatten(inputs)), strict=True))
        for segment in self.segments:
            run = segment.run if segment is self.segments[-1] or _is_barrier(segment.nodes[0]) else _twice(segment)
            results = run([known[key] for key in segment.inputs], training)
            known.update(zip(segment.outputs, results, strict=True))
        return keras.tree.map_structure(known.__getitem__, self.structure)


def _twice(segment: _Segment) -> Any:
    """Returns a function as `segment.run` whose gradient runs the segment again."""

    def run(tensors: Sequence[tf.Tensor], training: bool) -> list[tf.Tensor]:
        seeds = [(variable, tf.identity(variable.value)) for variable in segment.seeds]

        @tf.custom_gradient
        def forward(*inputs: tf.Tensor) -> Any:
            def backward(*upstream: tf.Tensor, variables: Sequence[tf.Variable] = ()) -> Any:
                # Without this the second pass could run at once, and TensorFlow would merge it with the first.
                with tf.control_dependencies(upstream):
                    again = [tf.identity(tensor) for tensor in inputs]
                sources = [*again, *(variable for variable in variables if variable.dtype.is_floating)]
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch([source for source in sources if source.dtype.is_floating])
                    # Updates of variables are dropped: the first pass has made them. Seeds are those it began with.
                    with keras.StatelessScope(state_mapping=seeds):
                        outputs = segment.run(again, training)
                gradients = tape.gradient(outputs, sources, output_gradients=list(upstream))
                # An earlier segment waits for all of them, or its activations would be kept beside this one's.
                with tf.control_dependencies([gradient for gradient in gradients if gradient is not None]):
                    gradients = [None if gradient is None else tf.identity(gradient) for gradient in gradients]
                of_variables = iter(gradients[len(again) :])
                return gradients[: len(again)], [next(of_variables) if v.dtype.is_floating else None for v in variables]

            return segment.run(inputs, training), backward

        return list(forward(*tensors))

    return run


# === Cutting ===


def _segments(model: Any) -> list[_Segment]:
    """Returns the segments that a functional model is cut into, in the order in which they run."""
    nodes = _in_order(model)
    place = {id(tensor): index for index, node in enumerate(nodes) for tensor in node.outputs}
    last_use = list(range(len(nodes)))
    for index, node in enumerate(nodes):
        for tensor in node.input_tensors:
            if (maker := place.get(id(tensor))) is not None:
                last_use[maker] = index
    for tensor in model.outputs:
        if (maker := place.get(id(tensor))) is not None:
            last_use[maker] = len(nodes)
    cuts = _cuts(_sizes(model, nodes), last_use, [_is_barrier(node) for node in nodes])
    segments = []
    for begin, end in itertools.pairwise(cuts):
        part = nodes[begin:end]
        own = {id(tensor) for node in part for tensor in node.outputs}
        taken = dict.fromkeys(id(x) for node in part for x in node.input_tensors if id(x) not in own)
        handed = {id(x) for node in nodes[end:] for x in node.input_tensors} | {id(x) for x in model.outputs}
        outputs = tuple(id(x) for node in part for x in node.outputs if id(x) in handed)
        segments.append(_Segment(tuple(part), tuple(taken), outputs))
    return segments


def _in_order(model: Any) -> list[Any]:
    """Returns the nodes of a functional model, each after those that it needs and near to them.

    Keras's own order is by depth: it takes the branches of a network in turns, so that all would be cut at once.
    """
    given = {id(tensor) for tensor in model.inputs}
    done: dict[int, Any] = {}
    stack = [(_node_of(tensor), False) for tensor in reversed(model.outputs) if id(tensor) not in given]
    while stack:
        node, ready = stack.pop()
        if id(node) in done or node.is_input:
            continue
        if ready:
            done[id(node)] = node
        else:
            stack.append((node, True))
            stack.extend((_node_of(x), False) for x in reversed(node.input_tensors) if id(x) not in given)
    return list(done.values())


def _node_of(tensor: Any) -> Any:
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def _is_barrier(node: Any) -> bool:
    """Whether a node's layer holds models, which are cut themselves."""
    layer = node.operation
    return isinstance(layer, keras.layers.Layer) and any(isinstance(x, keras.Function) for x in layer._flatten_layers())


def _is_seed(variable: keras.Variable) -> bool:
    return not keras.backend.is_float_dtype(variable.dtype)


def _sizes(model: Any, nodes: Sequence[Any]) -> list[int]:
    """Returns the bytes of each node's outputs for a typical image."""

    def sized(tensor: Any) -> keras.KerasTensor:
        first, *sides = tensor.shape
        return keras.KerasTensor((first or _BATCH, *(side or _SIDE for side in sides)), tensor.dtype)

    known = {id(tensor): sized(tensor) for tensor in model.inputs}
    sizes = []
    for node in nodes:
        args, kwargs = node.arguments.fill_in(known)
        specs = keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
        known.update(zip(map(id, node.outputs), specs, strict=True))
        sizes.append(sum(math.prod(sized(spec).shape) * tf.as_dtype(spec.dtype).size for spec in specs))
    return sizes


def _cuts(sizes: Sequence[int], last_use: Sequence[int], barriers: Sequence[bool]) -> list[int]:
    """Returns where to cut a sequence of nodes: 0, …, the number of nodes.

    What a step keeps is all that segments hand on, and the activations of the one segment that runs backwards.

    Args:
        sizes: Bytes of each node's outputs.
        last_use: For each node the index of the last one that takes its outputs; the number of nodes for outputs of
            the model.
        barriers: Nodes that must be alone.
    """
    total = sum(sizes)
    found = [_cuts_within(sizes, last_use, barriers, share * total) for share in _SHARES]
    return min(found, key=lambda one: one[0])[1]


def _cuts_within(
    sizes: Sequence[int], last_use: Sequence[int], barriers: Sequence[bool], largest: float
) -> tuple[float, list[int]]:
    """Returns what is kept and the cuts that keep least, where no segment of two nodes or more has more than `largest`.

    Dynamic programming over the ends of segments.
    """
    kept, began = [0.0], [0]
    for end in range(1, len(sizes) + 1):
        least, where = math.inf, end - 1
        inside = handed = 0.0
        for begin in range(end - 1, -1, -1):
            inside += sizes[begin]
            # The last segment is not computed twice: it hands on nothing that it would not keep anyway.
            handed += sizes[begin] if end <= last_use[begin] < len(sizes) else 0
            alone = begin == end - 1
            if not alone and (inside > largest or barriers[begin] or barriers[end - 1]):
                break
            if kept[begin] + handed < least:
                least, where = kept[begin] + handed, begin
        kept.append(least)
        began.append(where)
    cuts = [len(sizes)]
    while cuts[-1]:
        cuts.append(began[cuts[-1]])
    return kept[-1] + largest, cuts[::-1]
