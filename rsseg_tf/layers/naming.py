"""Names that Keras gives to layers and variables without one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

# Keras has no public way to its counters; it has had this one in all releases of version 3.
from keras.src.backend.common import global_state

__all__ = ["automatic_name", "numbered_from_the_start"]

_COUNTERS = "object_name_uids"


def automatic_name(kind: str) -> str:
    """Returns the name that Keras gives to a layer of a class, but for a number: "re_lu" for "ReLU"."""
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)).lower()


@contextmanager
def numbered_from_the_start() -> Iterator[None]:
    """Makes the names of what is built inside depend on nothing that was built before.

    Keras numbers layers and variables without a name by how many a process has made. Checkpoints find variables by
    their paths, which must be the same in every process.
    """
    before = global_state.get_global_attribute(_COUNTERS)
    global_state.set_global_attribute(_COUNTERS, defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute(_COUNTERS, before if before is not None else defaultdict(int))
