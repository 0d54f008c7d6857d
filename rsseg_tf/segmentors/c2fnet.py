"""C2FNet: a coarse segmentor, and a fine network that refines the windows with small objects.

Source: contrib/RSSegBenchmark/c2fnet/models/c2fnet.py of PaddleSeg. The arithmetic is PaddleSeg's wherever that is
defined. Four of its limits are lifted:

- The classes of small objects come from the dataset; PaddleSeg writes iSAID's ids into the model.
- Every pixel belongs to a window. PaddleSeg drops what lies beyond the last whole window, and returns zeros
  there.
- Ignored labels stay ignored. In PaddleSeg they count as "no small object".
- Where an image has fewer windows than a training step takes, all of them are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.segmentors.fcn import fcn
from rsseg_tf.segmentors.requirements import require_backbone

__all__ = ["FrozenSegmentor", "RefineSmallObjects", "c2fnet", "window_labels"]

# A training step with too few windows that show small objects takes this fraction of what it would take.
_SPARSE_DIVISOR = 8


@takes_weights
def c2fnet(
    backbone: keras.Model,
    *,
    coarse: keras.Model,
    num_classes: int,
    small_classes: Sequence[int],
    channels: int | None = None,
    window_size: int = 128,
    training_stride: int = 32,
    windows_per_image: int = 32,
    align_corners: bool = False,
    weights: StrPath | None = None,
) -> keras.Model:
    """Builds a coarse-to-fine model.

    The coarse model is frozen, see `FrozenSegmentor`. The fine one is `rsseg_tf.segmentors.fcn` with two classes,
    other and small object, on windows of the image.

    In inference the image is cut into windows. Where the coarse prediction has a pixel of a small class, the fine
    model's probability of a small object is added to the logits of all small classes; other windows stay as they are.
    In training windows overlap, and those with the most pixels predicted as small classes are taken:
    `windows_per_image` for each image of the batch, or an eighth of that if fewer windows have any. Where Keras does
    not run on TensorFlow, sizes cannot follow from values: all windows are looked at in inference (the logits are the
    same), and the full number is taken in training.

    Layers of the two parts often have the same names. Build each part within `keras.name_scope("coarse")` and
    `keras.name_scope("fine")`, so that the variables have different paths.

    Args:
        backbone: Model from an image to features `"c2"`…, for the fine model (HRNet-W18 in PaddleSeg).
        coarse: A trained segmentor with the same number of bands and an output `"main"`. It is set to
            `trainable = False`.
        num_classes: Channels of the logits of `coarse`.
        small_classes: Ids of the classes of small objects, in [0, num_classes).
        channels: Channels of the hidden convolution of the fine model; by default as many as its features have.
        window_size: Side of a window in pixels.
        training_stride: Step from one window to the next in training.
        windows_per_image: Windows taken in a training step for each image of the batch.
        align_corners: How the fine model's logits are resized, see `rsseg_tf.layers.ResizeLike`.
        weights: Of the whole model, see `rsseg_tf.backbones`; None for random ones.

    Returns:
        A model from images (B, H, W, C) to `{"main": logits, "fine": {"logits", "windows"}}`. `main` is
        (B, H, W, num_classes) float32; in training these are the coarse logits, since only the fine model learns.
        `fine` holds the fine model's logits (N, window_size, window_size, 2) float32 and the windows' places
        (N, 3) int32: image, first row, first column; N depends on the content. See `window_labels` for the loss.

    Raises:
        ConfigError: If an argument is outside of what is described here.
    """
    require_backbone(backbone, "c2fnet")
    if coarse.input_shape[-1] != backbone.input_shape[-1]:
        raise ConfigError(
            f"coarse and backbone must take the same number of bands; got {coarse.input_shape[-1]} and "
            f"{backbone.input_shape[-1]}."
        )
    if coarse.output["main"].shape[-1] != num_classes:
        raise ConfigError(
            f"the coarse model has {coarse.output['main'].shape[-1]} classes; num_classes is {num_classes}. "
            "They must be equal."
        )
    with keras.name_scope("fine"):
        fine = fcn(backbone, num_classes=2, channels=channels, align_corners=align_corners)
    shared = {weight.path for weight in coarse.weights} & {weight.path for weight in fine.weights}
    if shared:
        raise ConfigError(
            f"coarse and fine models have {len(shared)} weights of the same name (such as {min(shared)}); build the "
            'coarse model within keras.name_scope("coarse") and the backbone within keras.name_scope("fine").'
        )
    image = keras.Input((None, None, coarse.input_shape[-1]), name="image")
    outputs = RefineSmallObjects(
        fine,
        small_classes=small_classes,
        window_size=window_size,
        training_stride=training_stride,
        windows_per_image=windows_per_image,
        dtype="float32",
        name="refine",
    )(image, FrozenSegmentor(coarse, dtype="float32", name="coarse")(image))
    return keras.Model(image, outputs, name="c2fnet")


def window_labels(
    labels: Any, windows: Any, *, window_size: int, small_classes: Sequence[int], ignore_index: int
) -> Any:
    """Returns the labels that the fine model of a `c2fnet` is trained with.

    Args:
        labels: (B, H, W) integer class ids or `ignore_index`.
        windows: (N, 3) int32: image, first row and first column of each window.
        window_size: Side of a window.
        small_classes: Ids of the classes of small objects.
        ignore_index: Label of pixels that do not count.

    Returns:
        (N, window_size, window_size) int32: 1 small object, 0 other, `ignore_index` where a label is ignored or the
        window reaches beyond the image.
    """
    labels = ops.cast(labels, "int32")
    target = ops.cast(_is_one_of(labels, small_classes), "int32")
    target = ops.where(ops.equal(labels, ignore_index), ignore_index, target)
    # An image smaller than a window is padded; the padding is not to be learnt from.
    target = _pad_to(target[..., None], window_size, value=ignore_index)
    return _cut(target, windows, window_size)[..., 0]


def _is_one_of(ids: Any, wanted: Sequence[int]) -> Any:
    """(…) integer ids to (…) bool."""
    found = ops.zeros_like(ids, dtype="bool")
    for value in wanted:
        found = ops.logical_or(found, ops.equal(ids, value))
    return found


def _at_least_0(size: Any) -> Any:
    """Returns a Python number for a known size: JAX needs the sizes of its arrays as such."""
    return max(size, 0) if isinstance(size, int) else ops.maximum(size, 0)


def _sizes_may_follow_from_values() -> bool:
    """Only TensorFlow runs arrays whose size it learns on the way."""
    return str(keras.config.backend()) == "tensorflow"


def _pad_to(x: Any, size: int, value: int = 0) -> Any:
    """Extends (B, H, W, C) downwards and to the right until both sides have at least `size` pixels."""
    _, height, width, _ = ops.shape(x)
    padding = [[0, 0], [0, _at_least_0(size - height)], [0, _at_least_0(size - width)], [0, 0]]
    return ops.pad(x, padding, constant_values=value)


def _starts(side: Any, size: int, stride: int) -> Any:
    """First pixels of windows along a side, every `stride` pixels, and of one more that ends where the side ends."""
    last = _at_least_0(side - size)
    return ops.minimum(ops.arange(0, last + stride, stride, dtype="int32"), last)


def _count(mask: Any, rows: tuple[Any, Any], columns: tuple[Any, Any]) -> Any:
    """Counts set pixels in boxes.

    Args:
        mask: (B, H, W) bool.
        rows: First rows (I,) of the boxes and the rows (I,) behind their last ones.
        columns: Likewise (J,), (J,).

    Returns:
        (B, I, J) int32.
    """
    # A summed-area table: the count in a box is a difference of four corners.
    table = ops.cumsum(ops.cumsum(ops.cast(mask, "int32"), axis=1), axis=2)
    table = ops.pad(table, [[0, 0], [1, 0], [1, 0]])
    strips = ops.take(table, rows[1], axis=1) - ops.take(table, rows[0], axis=1)
    return ops.take(strips, columns[1], axis=2) - ops.take(strips, columns[0], axis=2)


def _places(chosen: Any, rows: Any, columns: Any) -> Any:
    """Returns image, first row and first column (N, 3) int32 of windows numbered image by image, row by row."""
    chosen = ops.cast(chosen, "int32")
    across, per_image = ops.shape(columns)[0], ops.shape(rows)[0] * ops.shape(columns)[0]
    row = ops.take(rows, chosen % per_image // across)
    return ops.stack([chosen // per_image, row, ops.take(columns, chosen % across)], axis=1)


def _cut(x: Any, windows: Any, size: int) -> Any:
    """Takes windows (N, size, size, C) out of (B, H, W, C)."""
    batch, height, width, channels = ops.shape(x)
    steps = ops.arange(size, dtype="int32")
    rows = windows[:, 0, None] * height + windows[:, 1, None] + steps  # (N, size), counted through the batch
    pixels = rows[:, :, None] * width + (windows[:, 2, None] + steps)[:, None, :]
    return ops.take(ops.reshape(x, (batch * height * width, channels)), pixels, axis=0)


def _lookup(grid: Any, tiles: Any, offsets: Any) -> Any:
    """(N, I, S, …), (L,) in [0, I), (L,) in [0, S) to (N, L, …): for each pixel its tile and its place in there."""
    size = grid.shape[2]
    shape = ops.shape(grid)
    merged = ops.reshape(grid, (shape[0], shape[1] * size, *shape[3:]))
    return ops.take(merged, tiles * size + offsets, axis=1)


@keras.saving.register_keras_serializable(package="rsseg_tf")
class FrozenSegmentor(keras.layers.Layer):
    """The main logits of a segmentor that does not learn: stored statistics and no dropout, in training too.

    Args:
        segmentor: Model from images (B, H, W, C) to `{"main": (B, H, W, num_classes), …}`.
        name: Name of the layer.
        trainable: Has no effect on the segmentor.
        dtype: Name of a dtype or a `keras.DTypePolicy`; of the result, not of the segmentor.
    """

    def __init__(
        self, segmentor: keras.Model, *, name: str | None = None, trainable: bool = True, dtype: Any = None
    ) -> None:
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        self.segmentor = segmentor
        segmentor.trainable = False

    def call(self, image: Any) -> Any:
        """(B, H, W, C) to (B, H, W, num_classes)."""
        return ops.cast(self.segmentor(image, training=False)["main"], self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "segmentor": keras.saving.serialize_keras_object(self.segmentor)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FrozenSegmentor:
        """Returns a layer with the arguments of `get_config`; its variables lie under `coarse/` again."""
        with keras.name_scope("coarse"):
            segmentor = keras.saving.deserialize_keras_object(config["segmentor"])
        return cls(**{**config, "segmentor": segmentor})


@keras.saving.register_keras_serializable(package="rsseg_tf")
class RefineSmallObjects(keras.layers.Layer):
    """Adds a fine model's probabilities to coarse logits, window by window. See `c2fnet`.

    Args:
        fine: Model from windows (N, S, S, C) to `{"main": (N, S, S, 2)}`.
        small_classes: Ids of the classes of small objects.
        window_size: Side S of a window.
        training_stride: Step from one window to the next in training.
        windows_per_image: Windows taken in a training step for each image of the batch.
        name: Name of the layer.
        trainable: Whether the fine model learns.
        dtype: Name of a dtype or a `keras.DTypePolicy`; of the sums, not of the fine model.

    Raises:
        ConfigError: If there is no small class, or a number is below its minimum.
    """

    def __init__(
        self,
        fine: keras.Model,
        *,
        small_classes: Sequence[int],
        window_size: int = 128,
        training_stride: int = 32,
        windows_per_image: int = 32,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        if not small_classes or min(small_classes) < 0:
            raise ConfigError(f"small_classes must be one or more class ids of at least 0; got {tuple(small_classes)}.")
        if min(window_size, training_stride, windows_per_image) < 1:
            raise ConfigError(
                "window_size, training_stride and windows_per_image must be at least 1; got "
                f"{window_size}, {training_stride} and {windows_per_image}."
            )
        self.fine = fine
        self.small_classes = tuple(sorted(set(small_classes)))
        self.window_size = window_size
        self.training_stride = training_stride
        self.windows_per_image = windows_per_image

    def call(self, image: Any, coarse: Any, training: bool | None = None) -> dict[str, Any]:
        """Refines coarse logits.

        Args:
            image: (B, H, W, C) float32, normalised.
            coarse: (B, H, W, num_classes) float32.
            training: Whether to choose windows for learning instead.

        Returns:
            `main` and `fine` as `c2fnet` describes them.

        Raises:
            ConfigError: If `coarse` has no channel for one of the small classes.
        """
        num_classes = coarse.shape[-1]
        if self.small_classes[-1] >= num_classes:
            raise ConfigError(
                f"small_classes must be below the number of classes, {num_classes}; got {self.small_classes}."
            )
        coarse = ops.cast(coarse, "float32")
        small = _is_one_of(ops.argmax(coarse, axis=-1), self.small_classes)
        padded = _pad_to(image, self.window_size)
        return self._learn(padded, coarse, small) if training else self._refine(padded, coarse, small)

    def compute_output_spec(self, image: Any, coarse: Any, training: bool | None = None) -> dict[str, Any]:
        """Returns the shapes of what `call` returns; the number of windows is unknown."""
        side = self.window_size
        fine = {
            "logits": keras.KerasTensor((None, side, side, 2), "float32"),
            "windows": keras.KerasTensor((None, 3), "int32"),
        }
        return {"main": keras.KerasTensor(coarse.shape, "float32"), "fine": fine}

    def _learn(self, image: Any, coarse: Any, small: Any) -> dict[str, Any]:
        """Runs the fine model on the overlapping windows with the most small objects."""
        size = self.window_size
        _, height, width, _ = ops.shape(image)
        # Pixels of small classes in each overlapping window, (B * I * J,).
        rows, columns = (_starts(side, size, self.training_stride) for side in (height, width))
        counts = _count(_pad_to(small[..., None], size)[..., 0], (rows, rows + size), (columns, columns + size))
        flat = ops.reshape(counts, (-1,))
        wanted = self.windows_per_image * ops.shape(image)[0]
        if _sizes_may_follow_from_values():
            enough = ops.sum(ops.cast(flat > 0, "int32")) >= wanted
            wanted = ops.where(enough, wanted, ops.maximum(wanted // _SPARSE_DIVISOR, 1))
        # A slice ends where the array ends: there may be fewer windows than wanted. Their order does not matter to the
        # loss; that of the image keeps memory access in line.
        chosen = ops.sort(ops.argsort(-flat)[:wanted])
        windows = _places(chosen, rows, columns)
        logits = self.fine(_cut(image, windows, size), training=True)["main"]
        return {"main": coarse, "fine": {"logits": logits, "windows": windows}}

    def _refine(self, image: Any, coarse: Any, small: Any) -> dict[str, Any]:
        """Runs the fine model on a grid of windows and adds its probabilities to the coarse logits."""
        size = self.window_size
        batch, height, width, _ = ops.shape(coarse)
        tile_rows, tile_columns = (ops.arange(0, side, size, dtype="int32") for side in (height, width))
        # A tile at the border may be smaller than a window; its window is moved back so that it shows the image only.
        rows = ops.minimum(tile_rows, _at_least_0(height - size))
        columns = ops.minimum(tile_columns, _at_least_0(width - size))
        row_ends, column_ends = ops.minimum(tile_rows + size, height), ops.minimum(tile_columns + size, width)
        # Windows with a pixel of a small class, (B * I * J,) bool.
        counts = _count(small, (tile_rows, row_ends), (tile_columns, column_ends))
        selected = ops.reshape(counts, (-1,)) > 0

        total = ops.shape(selected)[0]
        kept = total
        if _sizes_may_follow_from_values():
            # One window at least, for operations that refuse empty batches.
            kept = ops.maximum(ops.sum(ops.cast(selected, "int32")), 1)
        # The fine model's probability of a small object in the selected windows, (N, S, S); 0 in the spare one.
        chosen = ops.argsort(ops.cast(ops.logical_not(selected), "int32"))[:kept]
        windows = _places(chosen, rows, columns)
        logits = self.fine(_cut(image, windows, size), training=False)["main"]
        foreground = ops.softmax(ops.cast(logits, "float32"), axis=-1)[..., 1]
        foreground = foreground * ops.cast(ops.take(selected, chosen), "float32")[:, None, None]

        # Back from windows to the grid, and from the grid to pixels: pixel y lies in tile y // size.
        y, x = ops.arange(height, dtype="int32"), ops.arange(width, dtype="int32")
        grid = ops.scatter(chosen[:, None], foreground, (total, size, size))
        grid = ops.reshape(grid, (batch, ops.shape(rows)[0], ops.shape(columns)[0], size, size))
        grid = ops.transpose(grid, (0, 1, 3, 2, 4))  # (B, tile rows, S, tile columns, S)
        grid = _lookup(grid, y // size, y - ops.take(rows, y // size))
        grid = _lookup(ops.transpose(grid, (0, 2, 3, 1)), x // size, x - ops.take(columns, x // size))
        grid = ops.transpose(grid, (0, 2, 1))
        is_small = ops.convert_to_tensor([float(i in self.small_classes) for i in range(coarse.shape[-1])])
        refined = coarse + grid[..., None] * is_small
        return {"main": refined, "fine": {"logits": logits, "windows": windows}}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "fine": keras.saving.serialize_keras_object(self.fine),
            "small_classes": list(self.small_classes),
            "window_size": self.window_size,
            "training_stride": self.training_stride,
            "windows_per_image": self.windows_per_image,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RefineSmallObjects:
        """Returns a layer with the arguments of `get_config`; its variables lie under `fine/` again."""
        with keras.name_scope("fine"):
            fine = keras.saving.deserialize_keras_object(config["fine"])
        return cls(**{**config, "fine": fine})
