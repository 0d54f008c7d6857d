"""Convolution blocks as functions of a Keras tensor.

A block called `name` makes the layers `name` (convolution), `name_bn`, `name_relu` and, where it pads,
`name_pad`, so that every variable of a model has a path that can be read and mapped (see `rsseg_tf.weights`).

Source: paddleseg/models/layers/layer_libs.py of PaddleSeg.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import keras
from keras import ops

from rsseg_tf.layers.norm import BatchNorm
from rsseg_tf.layers.tracing import is_converting

__all__ = [
    "DilatedConv2D",
    "DilatedDepthwiseConv2D",
    "Padding",
    "ReducingConv2D",
    "classifier",
    "conv_bn",
    "conv_bn_relu",
    "kernel_initializer",
    "separable_conv_bn_relu",
]

Padding = Literal["same", "symmetric"]


def kernel_initializer(stddev: float | None = None) -> keras.initializers.Initializer:
    """Returns a new initialiser of convolution kernels.

    Args:
        stddev: Standard deviation of a normal distribution with mean 0. `None` means PaddleSeg's default,
            sqrt(2 / (kernel height * kernel width * input channels)); for a depthwise kernel too it counts all input
            channels of the layer.

    Returns:
        An initialiser that must be used once: an instance without a seed gives the same values at every call.
    """
    if stddev is None:
        return keras.initializers.VarianceScaling(scale=2.0, mode="fan_in", distribution="untruncated_normal")
    return keras.initializers.RandomNormal(stddev=stddev)


def _keeping_its_arguments(convolve: Callable[[Any, Any], Any], inputs: Any, kernel: Any) -> Any:
    """Returns `convolve(inputs, kernel)`, which keeps nothing but the two for the backward pass.

    Where a dilated convolution moves the pixels apart, it would keep them so, and padded: of 64 x 64 features at rate
    36 that is a copy with five times their pixels.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def convolved(inputs: Any, kernel: Any) -> tuple[Any, Any]:
        def gradients(upstream: Any) -> Any:
            with tf.control_dependencies([upstream]), tf.GradientTape() as tape:
                # Other operations than those of the forward pass, or TensorFlow takes the copy that is there.
                arguments = [tf.identity(inputs), tf.identity(kernel)]
                tape.watch(arguments)
                again = convolve(*arguments)
            return tape.gradient(again, arguments, upstream)

        return convolve(inputs, kernel), gradients

    return convolved(inputs, tf.convert_to_tensor(kernel))


@keras.saving.register_keras_serializable(package="rsseg_tf")
class DilatedConv2D(keras.layers.Conv2D):
    """A convolution with dilation that stays one operation in inference on TensorFlow.

    Keras's own moves the pixels apart, convolves, and moves them back, since TensorFlow's gradient of a dilated
    convolution needs that on CPUs. Strides are 1 and padding is "same".
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """(B, H, W, C) to (B, H, W, filters)."""
        if keras.config.backend() != "tensorflow":
            return super().call(inputs)
        if training:
            y = _keeping_its_arguments(self.convolution_op, inputs, self.kernel)
        else:
            import tensorflow as tf

            y = tf.nn.conv2d(inputs, self.kernel, strides=1, padding="SAME", dilations=self.dilation_rate)
        return y if self.bias is None else y + self.bias


@keras.saving.register_keras_serializable(package="rsseg_tf")
class DilatedDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """A depthwise convolution with dilation that is one operation for converters.

    Like Keras's own it moves the pixels apart, convolves, and moves them back, because TensorFlow without oneDNN has no
    dilated depthwise convolution on CPUs. TFLite and ONNX do have one, but where sizes are free their converters do not
    recognise it in those three steps; so within `converting` they are given the one operation. Strides are 1 and
    padding is "same".
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """(B, H, W, C) to (B, H, W, C * depth_multiplier)."""
        if training and keras.config.backend() == "tensorflow":
            y = _keeping_its_arguments(self._convolve, inputs, self.kernel)
            return y if self.bias is None else y + self.bias
        if not is_converting():
            return super().call(inputs)
        import tensorflow as tf

        y = tf.raw_ops.DepthwiseConv2dNative(
            input=inputs,
            filter=tf.convert_to_tensor(self.kernel),
            strides=[1, 1, 1, 1],
            padding="SAME",
            dilations=[1, *self.dilation_rate, 1],
        )
        return y if self.bias is None else y + self.bias

    def _convolve(self, inputs: Any, kernel: Any) -> Any:
        return ops.depthwise_conv(inputs, kernel, padding="same", dilation_rate=self.dilation_rate)


@keras.saving.register_keras_serializable(package="rsseg_tf")
class ReducingConv2D(keras.layers.Conv2D):
    """A convolution whose steps are as large as its kernel, so that every pixel counts once.

    Rows and columns that do not fill a kernel are left out. A map smaller than the kernel is filled up with zeros below
    and on the right, so that something is left of it.
    """

    def call(self, inputs: Any) -> Any:
        """(B, H, W, C) to (B, max(H // kernel, 1), max(W // kernel, 1), filters)."""
        batch, *sizes, channels = ops.shape(inputs)
        missing = [
            max(side - size, 0) if isinstance(size, int) else ops.maximum(side - size, 0)
            for side, size in zip(self.kernel_size, sizes, strict=True)
        ]
        if any(not isinstance(pixels, int) or pixels for pixels in missing):
            inputs = ops.pad(inputs, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])
            # It has this shape already; but converters must know its channels.
            inputs = ops.reshape(inputs, (batch, sizes[0] + missing[0], sizes[1] + missing[1], channels))
        return super().call(inputs)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Returns (B, max(H // kernel, 1), max(W // kernel, 1), filters)."""
        sides = zip(input_shape[1:3], self.kernel_size, strict=True)
        return (input_shape[0], *(size if size is None else max(size // side, 1) for size, side in sides), self.filters)


def conv_bn(
    x: Any,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    strides: int = 1,
    dilation: int = 1,
    padding: Padding = "same",
    use_bias: bool = False,
    stddev: float | None = None,
) -> Any:
    """Convolution and batch normalisation.

    Args:
        x: (B, H, W, C) floating point.
        filters: Channels of the result.
        kernel_size: Odd side of the square kernel.
        name: Name of the convolution and prefix of the other layers.
        strides: Step in both directions.
        dilation: Distance of the kernel's taps.
        padding: `"same"` pads as little as possible and the odd pixel at the bottom and right, as HRNet does;
            `"symmetric"` pads dilation * (kernel_size - 1) / 2 on every side, as the ResNets do. They differ only
            where `strides` is not 1.
        use_bias: Whether the convolution has a bias. It has no effect before the normalisation, but PaddleSeg's
            heads have one, and weight decay and released weights see it.
        stddev: See `kernel_initializer`.

    Returns:
        (B, ceil(H / strides), ceil(W / strides), filters).
    """
    if padding == "symmetric" and strides != 1 and kernel_size != 1:
        x = keras.layers.ZeroPadding2D(dilation * (kernel_size - 1) // 2, name=f"{name}_pad")(x)
        padding_of_conv = "valid"
    else:
        padding_of_conv = "same"
    layer = DilatedConv2D if dilation > 1 else keras.layers.Conv2D
    x = layer(
        filters,
        kernel_size,
        strides=strides,
        dilation_rate=dilation,
        padding=padding_of_conv,
        use_bias=use_bias,
        kernel_initializer=kernel_initializer(stddev),
        name=name,
    )(x)
    return BatchNorm(name=f"{name}_bn")(x)


def conv_bn_relu(
    x: Any,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    strides: int = 1,
    dilation: int = 1,
    padding: Padding = "same",
    use_bias: bool = False,
    stddev: float | None = None,
) -> Any:
    """`conv_bn` followed by a ReLU; same arguments and result."""
    x = conv_bn(
        x,
        filters,
        kernel_size,
        name=name,
        strides=strides,
        dilation=dilation,
        padding=padding,
        use_bias=use_bias,
        stddev=stddev,
    )
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def separable_conv_bn_relu(
    x: Any,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    dilation: int = 1,
    depthwise_norm: bool = True,
    depthwise_relu: bool = False,
) -> Any:
    """Depthwise convolution and normalisation, then pointwise convolution, normalisation and ReLU.

    Convolutions before a normalisation have a bias, as in PaddleSeg's SeparableConvBNReLU.

    Args:
        x: (B, H, W, C) floating point.
        filters: Channels of the result.
        kernel_size: Odd side of the square depthwise kernel.
        name: Prefix: `name_depthwise`, `name_depthwise_bn`, `name_pointwise`, …
        dilation: Distance of the depthwise kernel's taps.
        depthwise_norm: Whether the depthwise convolution has a normalisation of its own. Without it there is nothing
            between the two, as in segmentation_models_pytorch.
        depthwise_relu: Whether there is a ReLU after that normalisation, as in mmsegmentation.

    Returns:
        (B, H, W, filters).
    """
    layer = DilatedDepthwiseConv2D if dilation > 1 else keras.layers.DepthwiseConv2D
    x = layer(
        kernel_size,
        dilation_rate=dilation,
        padding="same",
        use_bias=depthwise_norm,
        depthwise_initializer=kernel_initializer(),
        name=f"{name}_depthwise",
    )(x)
    if depthwise_norm:
        x = BatchNorm(name=f"{name}_depthwise_bn")(x)
    if depthwise_relu:
        x = keras.layers.ReLU(name=f"{name}_depthwise_relu")(x)
    return conv_bn_relu(x, filters, 1, name=f"{name}_pointwise", use_bias=True)


def classifier(
    x: Any,
    num_classes: int,
    *,
    name: str,
    kernel_size: int = 1,
    use_bias: bool = True,
    stddev: float | None = None,
) -> Any:
    """Convolution, 1x1 as a rule, that turns features (B, H, W, C) into logits (B, H, W, num_classes)."""
    return keras.layers.Conv2D(
        num_classes,
        kernel_size,
        padding="same",
        use_bias=use_bias,
        kernel_initializer=kernel_initializer(stddev),
        name=name,
    )(x)
