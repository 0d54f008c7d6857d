"""Two logical CPU devices, so that training on several devices can be tested anywhere."""

from __future__ import annotations

import tensorflow as tf

tf.config.set_visible_devices([], "GPU")
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
