"""Pixel contrast: embeddings of the same class attract each other, those of different classes repel.

Wang et al., Exploring Cross-Image Pixel Contrast for Semantic Segmentation, https://arxiv.org/abs/2101.11939.
Source: paddleseg/models/losses/pixel_contrast_cross_entropy_loss.py of PaddleSeg.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keras import ops

__all__ = ["pixel_contrast"]

_LEAST = -1e30  # exp(_LEAST) is 0, and differences to it are finite


def pixel_contrast(
    outputs: Mapping[str, Any],
    labels: Any,
    *,
    ignore_index: int,
    temperature: float = 0.1,
    base_temperature: float = 0.07,
    max_samples: int = 1024,
    max_views: int = 100,
    seed: Any = 0,
    mean: Callable[[Any], Any] = ops.mean,
) -> Any:
    """Contrastive loss of a sample of pixels, half of them wrongly classified where there are enough.

    Labels are brought to the size of the embedding by taking the pixel at floor(i * H / h). A class takes part in an
    image where it has more than `max_views` pixels; each such pair of image and class gives the same number of pixels,
    at most `max_views` and together at most `max_samples`. Without such a class the loss and its gradients are 0,
    where PaddleSeg divides by zero.

    Args:
        outputs: `logits` (B, h, w, C) and `embedding` (B, h, w, D) of length 1, floating point; computed in
            float32.
        labels: (B, H, W) integers in [0, C) or `ignore_index`.
        ignore_index: Label of pixels that do not count.
        temperature: Divides the similarities.
        base_temperature: The loss is scaled by temperature / base_temperature.
        max_samples: Pixels of the batch at most.
        max_views: Pixels of a class in an image at most.
        seed: Integer or int32 scalar that determines the choice of pixels.
        mean: Has no effect: each replica compares the pixels of its own share, as in PaddleSeg.

    Returns:
        A float32 scalar.
    """
    logits, embedding = outputs["logits"], ops.cast(outputs["embedding"], "float32")
    batch, height, width, num_classes = ops.shape(logits)
    labels = _nearest(ops.cast(labels, "int32"), height, width)
    labels = ops.reshape(ops.where(ops.equal(labels, ignore_index), -1, labels), (batch, height * width))
    predicted = ops.reshape(ops.cast(ops.argmax(logits, axis=-1), "int32"), (batch, height * width))
    order = _shuffled(batch, height * width, seed)
    pixels, classes, valid = _sample(labels, predicted, order, num_classes, max_samples, max_views)
    anchors = ops.take(ops.reshape(embedding, (-1, embedding.shape[-1])), pixels, axis=0)
    return temperature / base_temperature * _contrast(anchors, classes, valid, temperature)


def _nearest(labels: Any, height: Any, width: Any) -> Any:
    """(B, H, W) to (B, height, width)."""
    rows = ops.arange(height, dtype="int32") * ops.shape(labels)[1] // height
    columns = ops.arange(width, dtype="int32") * ops.shape(labels)[2] // width
    return ops.take(ops.take(labels, rows, axis=1), columns, axis=2)


def _shuffled(batch: Any, pixels: Any, seed: Any) -> Any:
    """(batch, pixels) int32: the pixels of each image in an order that follows from the seed."""
    counter = ops.cast(ops.arange(batch * pixels, dtype="int32"), "uint32")
    mixed = _hash(ops.bitwise_xor(_hash(counter), _hash(ops.cast(seed, "uint32") + _bits(0x9E3779B9))))
    # 24 bits fit into a float32, which every backend sorts.
    scores = ops.cast(ops.right_shift(mixed, _bits(8)), "float32")
    return ops.cast(ops.argsort(ops.reshape(scores, (batch, pixels)), axis=-1), "int32")


def _hash(x: Any) -> Any:
    """Mixes the bits of uint32 values, by C. Wellons' lowbias32; `keras.random` takes no seed from a tensor."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ops.bitwise_xor(x, ops.right_shift(x, _bits(shift))) * _bits(factor)
    return ops.bitwise_xor(x, ops.right_shift(x, _bits(16)))


def _bits(value: int) -> Any:
    return ops.convert_to_tensor(value, dtype="uint32")


def _sample(
    labels: Any, predicted: Any, order: Any, num_classes: int, max_samples: int, max_views: int
) -> tuple[Any, Any, Any]:
    """Chooses pixels; the first ones in `order` of each kind.

    Args:
        labels: (B, P) int32 in [0, num_classes), or -1.
        predicted: (B, P) int32.
        order: (B, P) int32, a permutation per image.
        num_classes: Number of classes.
        max_samples: As in `pixel_contrast`.
        max_views: As in `pixel_contrast`.

    Returns:
        For at most `max_samples` pixels (M,): place among B * P, class, and whether it was chosen at all (bool): the
        number of chosen ones depends on the labels, M does not.
    """
    # Pixels of each class in each image that the model gets right (easy) and wrong (hard), (B, C).
    right = ops.equal(labels, predicted)
    of_class = ops.one_hot(labels, num_classes, dtype="int32")
    easy = ops.sum(of_class * ops.cast(right, "int32")[..., None], axis=1)  # (B, C)
    hard = ops.sum(of_class, axis=1) - easy
    # Each pair of image and class that takes part gives the same number of views.
    takes_part = hard + easy > max_views
    views = ops.minimum(max_samples // ops.maximum(ops.sum(ops.cast(takes_part, "int32")), 1), max_views)

    # Half of the views are hard if there are enough of both kinds; else the rarer kind gives all that it has.
    many_hard, many_easy = 2 * hard >= views, 2 * easy >= views
    keep_hard = ops.where(many_hard, ops.where(many_easy, views // 2, views - easy), hard)
    keep_easy = ops.where(takes_part, views - keep_hard, 0)
    keep_hard = ops.where(takes_part, keep_hard, 0)

    # Kinds are numbered class by class, hard before easy; what has no label comes last.
    kind = ops.where(labels < 0, 2 * num_classes, 2 * labels + ops.cast(right, "int32"))
    counts = _interleave(hard, easy)
    starts = ops.cumsum(counts, axis=1) - counts
    shape = (ops.shape(labels)[0], 1)
    starts = ops.concatenate([starts, ops.zeros(shape, "int32")], axis=1)
    keep = ops.concatenate([_interleave(keep_hard, keep_easy), ops.zeros(shape, "int32")], axis=1)

    # Sorting keeps the order of equals: within a kind the pixels stay shuffled.
    by_kind = ops.argsort(ops.take_along_axis(kind, order, axis=1), axis=-1)
    order = ops.take_along_axis(order, by_kind, axis=1)
    kind = ops.take_along_axis(kind, order, axis=1)
    rank = ops.arange(ops.shape(kind)[1], dtype="int32") - ops.take_along_axis(starts, kind, axis=1)
    chosen = ops.reshape(rank < ops.take_along_axis(keep, kind, axis=1), (-1,))

    image = ops.arange(ops.shape(labels)[0], dtype="int32")[:, None]
    places = ops.reshape(image * ops.shape(labels)[1] + order, (-1,))
    first = ops.argsort(ops.cast(ops.logical_not(chosen), "int32"))[:max_samples]
    return ops.take(places, first), ops.take(ops.reshape(kind, (-1,)), first) // 2, ops.take(chosen, first)


def _interleave(a: Any, b: Any) -> Any:
    """Joins (B, C) and (B, C) to (B, 2C), one of each in turn."""
    return ops.reshape(ops.stack([a, b], axis=-1), (ops.shape(a)[0], 2 * a.shape[1]))


def _contrast(anchors: Any, classes: Any, valid: Any, temperature: float) -> Any:
    """Mean over the valid anchors (M, D) of minus the log probability of their positives."""
    # Pairs of anchors, (M, M): positives share a class, negatives do not; an anchor is no partner of its own.
    both = ops.logical_and(valid[:, None], valid[None, :])
    same = ops.equal(classes[:, None], classes[None, :])
    other_anchor = ops.logical_not(ops.cast(ops.eye(ops.shape(anchors)[0]), "bool"))
    positive = ops.cast(ops.logical_and(both, ops.logical_and(same, other_anchor)), "float32")
    negative = ops.logical_and(both, ops.logical_not(same))

    logits = ops.matmul(anchors, ops.transpose(anchors)) / temperature
    # log(exp(logit) + sum of exp(negatives)), for embeddings of any length.
    of_negatives = ops.logsumexp(ops.where(negative, logits, _LEAST), axis=1, keepdims=True)
    log_probability = logits - ops.logaddexp(logits, of_negatives)
    positives = ops.maximum(ops.sum(positive, axis=1), 1.0)
    losses = -ops.sum(positive * log_probability, axis=1) / positives
    weights = ops.cast(valid, "float32")
    return ops.sum(losses * weights) / ops.maximum(ops.sum(weights), 1.0)
