"""Random views of images without labels, for self-supervised pre-training.

Geometry is done image by image. The image is decoded once; each view is a crop of it, resized to a square, mirrored and
turned; an affine records which part of the image the view shows. Colour is done for a whole batch at once. All of it is
a pure function of (image, seed), with a stateless seed `(2,)` int32 for each view.

Crops are torchvision's `RandomResizedCrop`, colours its `ColorJitter`, `RandomGrayscale`, `RandomSolarize` and MoCo's
`GaussianBlur`, on float32 pixels 0..255: nothing is rounded in between.
"""

from __future__ import annotations

import math

import tensorflow as tf

from rsseg_tf.config.pretrain import Views
from rsseg_tf.data.augment import normalise, value_limits
from rsseg_tf.data.calls import call_python
from rsseg_tf.data.colours import BYTES, Limits
from rsseg_tf.data.pipeline import ALL, Share, endless_batches, shuffled
from rsseg_tf.data.reader import ImageReader

__all__ = ["blur", "colour_views", "crop_box", "cut_view", "jitter", "luma", "rgb_only", "view_batches"]

_TRIALS = 10  # draws of a crop before it falls back to the middle of the image, as torchvision
_DRAWS = 13  # random numbers for the colours of a view, see `colour_views`


def view_batches(
    reader: ImageReader,
    views: Views,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    workers: int | None = None,
    share: Share = ALL,
) -> tf.data.Dataset:
    """Returns endless batches of views.

    Args:
        reader: The images.
        views: Sizes and random changes.
        batch_size: Images per batch, over all devices.
        seed: Seed of order and changes.
        start: How many images were consumed before (a resumed run).
        workers: Images read in parallel; None lets TensorFlow choose.
        share: Which part of each batch to prepare, see `endless_batches`.

    Returns:
        Elements `{"views": (B, 2, H, W, bands) float32 normalised, "affines": (B, 2, 2, 3) float32, "index": (B,)
        int64}`, and with small views `small_views` and `small_affines`. See `cut_view` for the affines.
    """
    spec, count = reader.spec, len(reader.samples)
    limits = value_limits(reader.dtype, spec.max_value)
    kinds = [("views", "affines", 2, views.crop_size, views.scale_range)]
    if views.small_views:
        small = (views.small_views, views.small_crop_size, views.small_scale_range)
        kinds.append(("small_views", "small_affines", *small))

    def cut(position: tf.Tensor) -> dict[str, tf.Tensor]:
        index = shuffled(position % count, position // count, count, seed)
        (image,) = call_python(lambda i: [reader(i)], [index], [tf.as_dtype(reader.dtype)])
        image.set_shape((None, None, spec.bands))
        image = tf.cast(image, tf.float32) * (255.0 / spec.max_value)
        image_seed = tf.cast(tf.stack([tf.constant(seed, tf.int64), position]), tf.int32)
        element = {"index": index}
        for kind, (name, affines, number, size, scale) in enumerate(kinds):
            seeds = tf.random.split(tf.random.experimental.stateless_fold_in(image_seed, kind), number)
            pairs = [
                cut_view(image, seeds[i], views, size=size, scale_range=scale, limits=limits) for i in range(number)
            ]
            element[name] = tf.stack([view for view, _ in pairs])
            element[affines] = tf.stack([affine for _, affine in pairs])
            draws = [tf.random.stateless_uniform((_DRAWS,), tf.random.split(seeds[i], 4)[3]) for i in range(number)]
            element[f"{name}_draws"] = tf.stack(draws)
        return element

    def colour(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        for name, _, number, _, _ in kinds:
            draws = batch.pop(f"{name}_draws")
            coloured = [
                colour_views(batch[name][:, i], draws[:, i], views, view=i if name == "views" else 1, limits=limits)
                for i in range(number)
            ]
            batch[name] = normalise(tf.stack(coloured, axis=1), spec, max_value=BYTES[1])
        return batch

    return endless_batches(cut, batch_size=batch_size, start=start, workers=workers, finish=colour, share=share)


def rgb_only(views: Views, bands: int) -> tuple[str, ...]:
    """Returns the names of the colour changes that the config asks for but images of `bands` bands do not get."""
    if bands == 3:
        return ()
    wanted = {"saturation": views.saturation, "hue": views.hue, "grayscale": views.gray_probability}
    if not views.jitter_probability:
        wanted |= {"saturation": 0.0, "hue": 0.0}
    return tuple(name for name, value in wanted.items() if value)


# === Geometry ===


def crop_box(
    seed: tf.Tensor, height: tf.Tensor, width: tf.Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draws a crop: the first of ten draws that lies in the image, else the largest one in its middle.

    Args:
        seed: `(2,)` int32.
        height: Height of the image in pixels, int32 scalar.
        width: Width of the image in pixels, int32 scalar.
        scale: Smallest and largest share of the image's area.
        ratio: Smallest and largest width over height.

    Returns:
        Top, left, height and width in pixels, int32 scalars.
    """
    seeds = tf.unstack(tf.random.split(seed, 3))
    rows, columns = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    area = rows * columns * tf.random.stateless_uniform((_TRIALS,), seeds[0], *scale)
    shape = tf.exp(tf.random.stateless_uniform((_TRIALS,), seeds[1], math.log(ratio[0]), math.log(ratio[1])))
    w = tf.cast(tf.round(tf.sqrt(area * shape)), tf.int32)
    h = tf.cast(tf.round(tf.sqrt(area / shape)), tf.int32)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = tf.argmax(tf.cast(fits, tf.int32))
    places = tf.random.stateless_uniform((2,), seeds[2])
    h, w = tf.gather(h, first), tf.gather(w, first)
    top = tf.cast(places[0] * tf.cast(height - h + 1, tf.float32), tf.int32)
    left = tf.cast(places[1] * tf.cast(width - w + 1, tf.float32), tf.int32)

    # The largest crop in the middle whose shape is allowed.
    kept = tf.clip_by_value(columns / rows, *ratio)
    middle_h = tf.where(columns / rows < ratio[0], tf.cast(tf.round(columns / kept), tf.int32), height)
    middle_w = tf.where(columns / rows > ratio[1], tf.cast(tf.round(rows * kept), tf.int32), width)
    found = tf.reduce_any(fits)
    return (
        tf.where(found, tf.minimum(top, height - h), (height - middle_h) // 2),
        tf.where(found, tf.minimum(left, width - w), (width - middle_w) // 2),
        tf.where(found, h, middle_h),
        tf.where(found, w, middle_w),
    )


def cut_view(
    image: tf.Tensor,
    seed: tf.Tensor,
    views: Views,
    *,
    size: int,
    scale_range: tuple[float, float],
    limits: Limits = BYTES,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts a view out of an image: random crop, resized, mirrored, turned.

    Args:
        image: `(H, W, bands)` float32.
        seed: `(2,)` int32.
        views: Shapes and probabilities.
        size: Side of the view in pixels.
        scale_range: Share of the image's area.
        limits: Smallest and largest value of an image, see `value_limits`.

    Returns:
        The view `(size, size, bands)`, and its affine `(2, 3)` float32 that maps (u, v, 1) to (x, y): u and v run from
        0 to 1 over the view from the left and the top; x and y over the image, 0 at the centre of the first pixel and
        1 at that of the last one, the coordinates in which PixPro measures distances.
    """
    seeds = tf.unstack(tf.random.split(seed, 4))  # the fourth is for colours
    height, width = tf.unstack(tf.shape(image)[:2])
    top, left, h, w = crop_box(seeds[0], height, width, scale_range, views.ratio_range)
    crop = image[top : top + h, left : left + w]
    # Antialiased where it shrinks, as Pillow does.
    view = tf.image.resize(crop, (size, size), method=views.interpolation, antialias=True)
    if views.interpolation == "bicubic":  # its weights are negative in places, so that results leave the range
        view = tf.clip_by_value(view, *limits)
    bottom_right = tf.cast(tf.maximum(tf.stack([width, height]) - 1, 1), tf.float32)
    x0, y0 = tf.unstack(tf.cast(tf.stack([left, top]), tf.float32) / bottom_right)
    dx, dy = tf.unstack(tf.cast(tf.stack([w - 1, h - 1]), tf.float32) / bottom_right)
    zero = tf.zeros(())
    affine = tf.stack([tf.stack([dx, zero, x0]), tf.stack([zero, dy, y0])])

    mirrored = tf.random.stateless_uniform((2,), seeds[1]) < [views.flip_horizontal, views.flip_vertical]
    view = tf.where(mirrored[0], tf.reverse(view, [1]), view)
    affine = tf.where(mirrored[0], _after(affine, [[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), affine)
    view = tf.where(mirrored[1], tf.reverse(view, [0]), view)
    affine = tf.where(mirrored[1], _after(affine, [[1.0, 0.0, 0.0], [0.0, -1.0, 1.0]]), affine)
    if views.rotate90:
        draws = tf.random.stateless_uniform((2,), seeds[2])
        turns = tf.where(draws[0] < views.rotate90, 1 + tf.cast(draws[1] * 3, tf.int32), 0)
        view = tf.image.rot90(view, turns)
        # A view that was turned against the clock shows at (u, v) what lay at (1 - v, u).
        for turn in range(3):
            affine = tf.where(turns > turn, _after(affine, [[0.0, -1.0, 1.0], [1.0, 0.0, 0.0]]), affine)
    return tf.ensure_shape(view, (size, size, image.shape[-1])), affine


def _after(affine: tf.Tensor, first: list[list[float]]) -> tf.Tensor:
    """Returns the affine that applies `first` and then `affine`."""
    return tf.matmul(affine, tf.concat([tf.constant(first), [[0.0, 0.0, 1.0]]], axis=0))


# === Colour ===


def colour_views(images: tf.Tensor, draws: tf.Tensor, views: Views, *, view: int, limits: Limits = BYTES) -> tf.Tensor:
    """Changes the colours of a batch: jitter, grey, blur, solarise, in this order.

    Args:
        images: `(B, H, W, bands)` float32, 0..255.
        draws: `(B, 13)` uniform in 0..1: whether to jitter (1), its strengths (4) and order (4), whether to make grey
            (1), whether and how much to blur (2), whether to solarise (1).
        views: Strengths and probabilities.
        view: Which of the two probabilities of a pair to take, 0 or 1.
        limits: Smallest and largest value that jitter may give, see `value_limits`.

    Returns:
        `(B, H, W, bands)` float32, 0..255.
    """
    rgb = images.shape[-1] == 3
    strengths = (views.brightness, views.contrast, views.saturation if rgb else 0.0, views.hue if rgb else 0.0)
    if views.jitter_probability and any(strengths):
        apply = draws[:, 0] < views.jitter_probability
        images = tf.where(_pixels(apply), jitter(images, draws[:, 1:5], draws[:, 5:9], strengths, limits), images)
    if views.gray_probability and rgb:
        images = tf.where(_pixels(draws[:, 9] < views.gray_probability), tf.repeat(luma(images), 3, -1), images)
    if views.blur_probability[view]:
        low, high = views.blur_sigma
        apply = draws[:, 10] < views.blur_probability[view]
        images = tf.where(_pixels(apply), blur(images, low + (high - low) * draws[:, 11]), images)
    if views.solarize_probability[view]:
        apply = _pixels(draws[:, 12] < views.solarize_probability[view]) & (images >= views.solarize_threshold)
        images = tf.where(apply, 255.0 - images, images)
    return images


def jitter(
    images: tf.Tensor,
    values: tf.Tensor,
    order: tf.Tensor,
    strengths: tuple[float, float, float, float],
    limits: Limits = BYTES,
) -> tf.Tensor:
    """Changes brightness, contrast, saturation and hue, in an order of its own for each image.

    Args:
        images: `(B, H, W, bands)` float32, 0..255.
        values: `(B, 4)` in 0..1: the places of the four factors in their ranges.
        order: `(B, 4)`, any numbers; the four changes come in the order that sorts them.
        strengths: Brightness, contrast and saturation are drawn from 1 ± these, the turn of the hue from ± the fourth.
        limits: Smallest and largest value, see `value_limits`.
    """
    brightness, contrast, saturation, hue = strengths
    widths = tf.constant([brightness, contrast, saturation])
    factors = tf.maximum(1.0 - widths, 0.0) + values[:, :3] * (1.0 + widths - tf.maximum(1.0 - widths, 0.0))
    shift = hue * (2.0 * values[:, 3] - 1.0)
    order = tf.argsort(order, axis=1)
    for slot in range(4):
        kind = order[:, slot]
        gray = luma(images)
        mean = tf.reduce_mean(gray, axis=(1, 2), keepdims=True)
        # Brightness moves away from black, contrast from the image's mean, saturation from the pixel's own grey.
        base = tf.where(_pixels(kind == 2), gray, tf.where(_pixels(kind == 1), mean, 0.0))
        factor = tf.where(kind == 3, 1.0, tf.gather(factors, tf.minimum(kind, 2), batch_dims=1))
        images = tf.clip_by_value(base + _pixels(factor) * (images - base), *limits)
        if hue:
            # Only the images whose turn it is: the change of colour space costs more than all the rest.
            which = tf.where(kind == 3)
            turned = _turn_hue(tf.gather_nd(images, which), tf.gather_nd(shift, which))
            images = tf.tensor_scatter_nd_update(images, which, turned)
    return images


def luma(images: tf.Tensor) -> tf.Tensor:
    """Returns `(..., 1)` ITU-R BT.601 luma; the mean of the bands for images of other than three bands.

    Args:
        images: `(..., bands)` float32.
    """
    if images.shape[-1] != 3:
        return tf.reduce_mean(images, axis=-1, keepdims=True)
    return tf.reduce_sum(images * tf.constant([0.299, 0.587, 0.114]), axis=-1, keepdims=True)


def blur(images: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """Blurs each image with a Gaussian of its own; at the border the remaining weights are scaled to a sum of 1.

    Args:
        images: `(B, H, W, bands)` float32.
        sigma: `(B,)`, standard deviations in pixels.
    """
    # Products with (H, H) and (W, W) matrices: one convolution cannot have a kernel of another width for each image.
    images = tf.einsum("bij,bjwc->biwc", _gaussian(sigma, tf.shape(images)[1]), images)
    return tf.einsum("bij,bhjc->bhic", _gaussian(sigma, tf.shape(images)[2]), images)


def _gaussian(sigma: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    places = tf.cast(tf.range(size), tf.float32)
    distance = (places[:, None] - places[None, :]) / sigma[:, None, None]
    weights = tf.exp(-0.5 * tf.square(distance))
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


def _turn_hue(images: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """Turns the hue of each image by a share of the circle, -0.5..0.5."""
    hue, saturation, value = tf.unstack(tf.image.rgb_to_hsv(images / 255.0), axis=-1)
    hue = tf.math.floormod(hue + shift[:, None, None], 1.0)
    return tf.image.hsv_to_rgb(tf.stack([hue, saturation, value], axis=-1)) * 255.0


def _pixels(x: tf.Tensor) -> tf.Tensor:
    """(B,) to (B, 1, 1, 1)."""
    return x[:, None, None, None]
