"""Checks a SavedModel's operations before it is opened or run.

A SavedModel is a program. Most of its operations compute; some read and write files, call Python or talk to other
machines. No segmentation model needs those, so a file that has one is refused, unless its user says that it is trusted.

Some operations that touch files are in every SavedModel: those that save and restore its variables. They are harmless
as long as nobody calls them; a signature, an initialiser or any other function that leads to one is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from rsseg_tf.errors import ExportError
from rsseg_tf.manifest import TRUST_VARIABLE

__all__ = ["check_operations", "is_trusted"]

# Operations that reach beyond the numbers they are given: files, other processes and machines, Python, foreign code.
_REACHING = re.compile(
    r"File|Dataset|Iterator|Reader|Record|LMDB|Sql|CSV|Summary|ImportEvent|PyFunc|Rpc|RemoteCall|Send|Recv|Debug|Dump"
    r"|Distributed|Heartbeat|ImmutableConst|Vocab|LoadAndRemap|DecodeProto|EncodeProto|FixedUnigram|Skipgram"
    r"|XlaCallModule|XlaLaunch|XlaHostCompute|^Save$|^SaveSlices$|^Restore$|^RestoreSlice$|DTensor|TPU|Session"
)
_STRINGS_ALONE = frozenset({"ShardedFilename", "ShardedFilespec"})
_WRITERS = frozenset({"SaveV2", "MergeV2Checkpoints"})
_SAVERS = _WRITERS | {"RestoreV2"}
# Operations with a state that stays within the model: variables, control flow, random numbers, tables, stacks.
_HARMLESS_STATE = re.compile(
    r"_?VarHandles?Op|VariableV?2?|TemporaryVariable|_?ReadVariables?Op|VarIsInitializedOp|VariableShape"
    r"|DisableCopyOnRead|Assign\w*VariableOp|Resource(Gather|Scatter|StridedSlice|CountUpTo)\w*"
    r"|StatefulPartitionedCall|_?If|_?While|Case|Assert|Print|PrintV2|CheckNumerics(V2)?"
    r"|Stateful(Uniform|StandardNormal|TruncatedNormal|Random)\w*|StatelessRandomGetAlg"
    r"|Random(Uniform|UniformInt|StandardNormal|Shuffle|Gamma|Poisson|PoissonV2|Crop)|(Parameterized)?TruncatedNormal"
    r"|Multinomial|NonDeterministicInts|RngSkip|RngReadAndSkip|SampleDistortedBoundingBox(V2)?|TensorArray\w*|Stack\w*"
    r"|(Anonymous)?(Mutable)?(Dense)?HashTable\w*|LookupTable\w*|InitializeTableV2|Empty|DeepCopy|GuaranteeConst"
    r"|IsResourceHandleRefCounting|DestroyResourceOp|IsTensorFloat32Enabled|CudnnRNN\w*|_?(Device)?(Arg|Retval)"
)
_SAVED_MODEL = "saved_model.pb"
_OTHER_FORMS = ("saved_model.pbtxt", "saved_model.cpb")  # which TensorFlow would read too


def is_trusted() -> bool:
    """Whether the user lets SavedModels do what they want."""
    return os.environ.get(TRUST_VARIABLE, "0") not in ("", "0")


def check_operations(folder: Path) -> None:
    """Looks at all operations of a SavedModel, of every function and whether or not anything calls them.

    Args:
        folder: Folder with `saved_model.pb`.

    Raises:
        ExportError: When it is no SavedModel, or could do more than compute and its user has not said that it is
            trusted.
    """
    if is_trusted():
        return
    for name in _OTHER_FORMS:
        if (folder / name).exists():
            raise _refused(folder, f"it has a {name}, which is not looked into")
    path = folder / _SAVED_MODEL
    try:
        saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror or error}.") from error
    except DecodeError as error:
        raise ExportError(f"{path} is damaged: it is no SavedModel. Export the model again.") from error
    for meta_graph in saved_model.meta_graphs:
        what = _first_reaching(meta_graph.graph_def) or _called_saver(meta_graph)
        if what:
            raise _refused(folder, what)


def _refused(folder: Path, what: str) -> ExportError:
    return ExportError(
        f"{folder} is a SavedModel that could read or write files or run other programs: {what}. Models of `rsseg-tf "
        f"export` do not. If you trust whoever made it, say so with --trust or {TRUST_VARIABLE}=1."
    )


def _first_reaching(graph: Any) -> str:
    """Returns the first operation that does more than compute, in words; empty without any."""
    functions = {function.signature.name for function in graph.library.function}
    for place, node in _nodes(graph):
        if node.op in functions or node.op in _STRINGS_ALONE or node.op in _SAVERS:
            continue
        if _REACHING.search(node.op) or _writes_to_file(node) or _has_unknown_state(node.op):
            return f"the operation {node.op} ({node.name:.100}{place})"
    return ""


def _nodes(graph: Any) -> Iterator[tuple[str, Any]]:
    for node in graph.node:
        yield "", node
    for function in graph.library.function:
        for node in function.node_def:
            yield f" in {function.signature.name:.100}", node


def _writes_to_file(node: Any) -> bool:
    stream = node.attr["output_stream"].s.decode("utf-8", "replace") if node.op == "PrintV2" else ""
    return stream not in ("", "stdout", "stderr", "log(info)", "log(warning)", "log(error)")


def _has_unknown_state(operation: str) -> bool:
    # TensorFlow marks whatever has an effect as stateful. An operation that it does not know cannot be loaded at all.
    definition = op_def_registry.get(operation)
    return definition is not None and definition.is_stateful and not _HARMLESS_STATE.fullmatch(operation)


def _called_saver(meta_graph: Any) -> str:
    """Returns the way from something that is run to an operation that saves or restores, in words; empty without any.

    TensorFlow itself runs the part that restores when it opens a SavedModel, so that one may read, and must not write.
    """
    graph = meta_graph.graph_def
    calls = {function.signature.name: function.node_def for function in graph.library.function}
    nodes = {node.name: node for node in graph.node}
    savers, writers = _reaching(calls, _SAVERS), _reaching(calls, _WRITERS)
    for name in meta_graph.object_graph_def.concrete_functions:
        if name in savers:
            return f"the function {name:.100} saves or restores files"
    for node in _ancestors(nodes, _outputs(meta_graph)):
        if _touches(node, calls, savers, _SAVERS):
            return f"a signature or initialiser runs {node.name:.100}, which saves or restores files"
    for node in _ancestors(nodes, [_plain(meta_graph.saver_def.restore_op_name)]):
        if _touches(node, calls, writers, _WRITERS):
            return f"what restores its variables runs {node.name:.100}, which writes files"
    return ""


def _reaching(calls: Mapping[str, Any], operations: Set[str]) -> set[str]:
    """Returns the functions that lead to one of the operations, by however many calls."""
    callers: dict[str, set[str]] = {}
    found = set()
    for name, nodes in calls.items():
        for node in nodes:
            if node.op in operations:
                found.add(name)
            for called in _called(node, calls):
                callers.setdefault(called, set()).add(name)
    # From the operations up to those that call them; functions may call each other in circles.
    waiting = list(found)
    while waiting:
        new = callers.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def _called(node: Any, functions: Mapping[str, Any]) -> Iterator[str]:
    """Yields the functions that a node calls: by the name of its operation, or by attributes, as `If` and `While`."""
    if node.op in functions:
        yield node.op
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        for function in value.list.func:
            yield function.name


def _touches(node: Any, functions: Mapping[str, Any], savers: Set[str], operations: Set[str]) -> bool:
    """Tells whether a node is one of the operations, or calls one of the functions that lead to them."""
    return node.op in operations or any(called in savers for called in _called(node, functions))


def _outputs(meta_graph: Any) -> list[str]:
    """Returns the nodes that are run: outputs of signatures and initialisers."""
    found = []
    for signature in meta_graph.signature_def.values():
        for info in signature.outputs.values():
            found += [_plain(one.name) for one in (info, *info.composite_tensor.components)]
            sparse = info.coo_sparse
            found += map(
                _plain, (sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name)
            )
    for name, collection in meta_graph.collection_def.items():
        if name in ("saved_model_main_op", "legacy_init_op", "saved_model_train_op"):
            found += [_plain(value) for value in collection.node_list.value]
    return found


def _plain(name: str) -> str:
    """Returns the node's name in a reference: `^name` is a control dependency, `name:1` the second output."""
    return name.removeprefix("^").partition(":")[0]


def _ancestors(nodes: Mapping[str, Any], names: Iterable[str]) -> Iterator[Any]:
    """Yields all nodes that some nodes need, themselves included."""
    waiting, seen = [name for name in names if name], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in nodes:
            continue
        seen.add(name)
        yield nodes[name]
        waiting += [_plain(source) for source in nodes[name].input]
