"""Two logical CPU devices, to test training on several devices anywhere; no deadlines on busy machines."""

from __future__ import annotations

import tensorflow as tf
from hypothesis import settings

tf.config.set_visible_devices([], "GPU")
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
