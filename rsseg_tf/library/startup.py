"""The first import of TensorFlow, which would print lines that help nobody."""

from __future__ import annotations

import os
import sys

from rsseg_tf.environment import has_nvidia_driver, muted_stderr

__all__ = ["load_tensorflow"]


def load_tensorflow() -> None:
    """Imports TensorFlow and lets it look for devices, without its complaints on a machine without an NVIDIA driver.

    Its C++ core prints several lines about a missing GPU before any log level applies. Where there is a driver nothing
    is hidden: there these lines may matter.
    """
    if "tensorflow" not in sys.modules:
        # Its log lines would hide those of this package; a user who wants them sets the variable.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if has_nvidia_driver() or sys.platform != "linux":
        return
    with muted_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()
