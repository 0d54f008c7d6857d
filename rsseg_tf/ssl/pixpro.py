"""PixPro: cells of two views that show the same place agree, after features have spread to similar cells.

Xie et al., Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised Visual Representation Learning,
https://arxiv.org/abs/2011.10043. Source: zdaxie/PixPro, contrast/models/PixPro.py. PASSL's port never crops at random
(its loop of trials has length 0), so the official code is followed.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from rsseg_tf.ssl.heads import l2_normalise, linear, mlp, pool
from rsseg_tf.ssl.method import BackboneBuilder, Batch, Devices, Method, Outcome, deepest
from rsseg_tf.ssl.momentum import cosine_rate, follow
from rsseg_tf.ssl.monitors import alignment, spread
from rsseg_tf.ssl.simsiam import negative_cosine

__all__ = ["PixPro", "cell_centres", "pixel_consistency", "positive_pairs", "propagate"]


def cell_centres(affine: Any, height: int, width: int) -> tuple[Any, Any]:
    """Returns where the cells of a view lie in its image.

    Args:
        affine: (B, 2, 3), from the view's coordinates to the image's, see `rsseg_tf.ssl.method.Batch`.
        height: Rows of cells.
        width: Columns of cells.

    Returns:
        Their centres (B, height * width, 2), x first, and the length of a cell's diagonal (B,). Mirrored and turned
        views need no case of their own: their affines say so.
    """
    # Centres in the view, 0..1; the affine takes them to the image.
    u = (ops.arange(width, dtype=affine.dtype) + 0.5) / width
    v = (ops.arange(height, dtype=affine.dtype) + 0.5) / height
    u, v = ops.meshgrid(u, v)
    points = ops.stack([ops.reshape(u, (-1,)), ops.reshape(v, (-1,))], axis=1)
    centres = ops.matmul(points, ops.transpose(affine[:, :, :2], (0, 2, 1))) + affine[:, None, :, 2]
    # Columns of the affine, divided by the number of cells, are the two sides of a cell in the image.
    sides = affine[:, :, :2] / ops.convert_to_tensor([width, height], dtype=affine.dtype)
    return centres, ops.sqrt(ops.sum(ops.square(sides), axis=(1, 2)))


def positive_pairs(one: Any, other: Any, height: int, width: int, *, radius: float) -> Any:
    """Returns which cells of two views show the same place.

    Args:
        one: (B, 2, 3), the affine of the first view.
        other: (B, 2, 3), that of the second.
        height: Rows of cells.
        width: Columns of cells.
        radius: Pairs count whose distance is below this many diagonals of the larger cell.

    Returns:
        (B, height * width, height * width), 1 or 0.
    """
    centres, diagonal = cell_centres(one, height, width)
    other_centres, other_diagonal = cell_centres(other, height, width)
    # Between all pairs of cells, (B, S, S), in diagonals of the larger cell.
    distance = ops.sqrt(ops.sum(ops.square(centres[:, :, None] - other_centres[:, None]), axis=-1))
    largest = ops.maximum(diagonal, other_diagonal)[:, None, None]
    return ops.cast(distance / largest < radius, one.dtype)


def pixel_consistency(prediction: Any, target: Any, positive: Any) -> Any:
    """Minus twice the mean cosine of the positive pairs of each image, averaged over the images.

    Args:
        prediction: (B, S, D), rows of length 1.
        target: (B, S, D), rows of length 1; takes no gradient.
        positive: (B, S, S), 1 or 0.

    Returns:
        A scalar in -2..2; an image without a pair counts as 0.
    """
    cosine = ops.matmul(prediction, ops.transpose(ops.stop_gradient(target), (0, 2, 1)))
    pairs = ops.sum(positive, axis=(1, 2))
    return -2.0 * ops.mean(ops.sum(cosine * positive, axis=(1, 2)) / (pairs + 1e-6))


def propagate(x: Any, transformed: Any, *, sharpness: float = 2.0) -> Any:
    """Spreads the features of a map to cells that look alike.

        y_i = sum over j of max(u_i . u_j, 0) ** sharpness * v_j

    Args:
        x: (B, S, D); u is the same with rows of length 1.
        transformed: (B, S, D); v is the same with rows of length 1.
        sharpness: The larger, the fewer cells a feature spreads to.

    Returns:
        (B, S, D), not normalised.
    """
    u, v = l2_normalise(x), l2_normalise(transformed)
    similarity = ops.maximum(ops.matmul(u, ops.transpose(u, (0, 2, 1))), 0.0)
    # A power of 0 has no finite gradient for exponents below 1; 2 is a product.
    weights = ops.square(similarity) if sharpness == 2.0 else ops.power(similarity, sharpness)
    return ops.matmul(weights, v)


class PixPro(Method):
    """Cells of two views that show the same place get the same features, by way of a key encoder that follows slowly.

    One side is propagated first: each cell takes in the features of similar cells of its view, which smooths the map.
    """

    def __init__(
        self,
        build_backbone: BackboneBuilder,
        *,
        steps: int,
        dim: int = 256,
        hidden: int = 4096,
        momentum: float = 0.99,
        radius: float = 0.7,
        sharpness: float = 2.0,
        instance_weight: float = 0.0,
    ) -> None:
        """Builds the encoder, the one that follows it, and the transform of the propagation.

        Args:
            build_backbone: Gives a new backbone.
            steps: Of the whole run; the momentum reaches 1 at its end.
            dim: Channels of the projections.
            hidden: Channels inside projectors and predictor.
            momentum: Of the first step.
            radius: See `positive_pairs`.
            sharpness: See `propagate`.
            instance_weight: Weight of a second loss on whole images; 0 builds nothing for it.
        """
        super().__init__(name="pixpro")
        self.steps, self.momentum, self.radius, self.sharpness = steps, momentum, radius, sharpness
        self.instance_weight = instance_weight
        instance = instance_weight > 0
        self.backbone = build_backbone()
        self.encoder = _encoder(self.backbone, hidden, dim, instance=instance)
        self.key_encoder, self.follower = follow(
            self.encoder, lambda: _encoder(build_backbone(), hidden, dim, instance=instance)
        )
        self.transform = _transform(dim)
        self.predictor = _predictor(dim, hidden) if instance else None

    def restart(self) -> None:
        """Makes the key encoder equal to the encoder."""
        self.follower.catch_up()

    def before_step(self, step: Any) -> None:
        """Moves the key encoder."""
        self.follower.move(cosine_rate(step, self.steps, self.momentum))

    def objective(self, batch: Batch, *, step: Any, devices: Devices) -> Outcome:
        """Compares each view, propagated, with the other one as the key encoder sees it."""
        views = [batch["views"][:, i] for i in (0, 1)]
        affines = [batch["affines"][:, i] for i in (0, 1)]
        online = [self.encoder(view, training=True) for view in views]
        keys = [self.key_encoder(view, training=True) for view in views]
        _, height, width, _ = ops.shape(online[0]["pixels"])
        predictions = [self._propagated(outputs["pixels"]) for outputs in online]
        targets = [ops.stop_gradient(l2_normalise(_flat(outputs["pixels"]))) for outputs in keys]
        positive = positive_pairs(affines[0], affines[1], height, width, radius=self.radius)
        pixel_loss = pixel_consistency(predictions[0], targets[1], positive)
        pixel_loss = pixel_loss + pixel_consistency(predictions[1], targets[0], ops.transpose(positive, (0, 2, 1)))
        values = {
            "spread": spread(online[0]["pixels"]),
            "alignment": alignment(*(ops.mean(l2_normalise(_flat(outputs["pixels"])), axis=1) for outputs in online)),
            "positives": ops.mean(ops.sum(positive, axis=(1, 2))),
        }
        if self.predictor is None:
            return Outcome(pixel_loss, values)
        instance_loss = 2.0 * sum(
            negative_cosine(self.predictor(online[i]["instance"], training=True), keys[1 - i]["instance"])
            for i in (0, 1)
        )
        values |= {"loss_pixels": pixel_loss, "loss_instance": instance_loss}
        return Outcome(pixel_loss + self.instance_weight * instance_loss, values)

    def _propagated(self, pixels: Any) -> Any:
        """(B, H, W, D) to (B, H * W, D), rows of length 1."""
        return l2_normalise(propagate(_flat(pixels), _flat(self.transform(pixels)), sharpness=self.sharpness))


def _flat(x: Any) -> Any:
    _, height, width, channels = ops.shape(x)
    return ops.reshape(x, (-1, height * width, channels))


def _encoder(backbone: keras.Model, hidden: int, dim: int, *, instance: bool) -> keras.Model:
    features = deepest(backbone)
    outputs = {"pixels": mlp(features, hidden, dim, name="projector", batch_norm=True)}
    if instance:
        x = mlp(features, hidden, dim, name="instance_projector", batch_norm=True)
        outputs["instance"] = pool(x)
    return keras.Model(backbone.input, outputs, name="encoder")


def _transform(dim: int) -> keras.Model:
    pixels = keras.Input((None, None, dim), name="pixels")
    return keras.Model(pixels, linear(pixels, dim, name="propagation_transform"), name="transform")


def _predictor(dim: int, hidden: int) -> keras.Model:
    projection = keras.Input((dim,), name="projection")
    x = mlp(projection, hidden, dim, name="instance_predictor", batch_norm=True)
    return keras.Model(projection, x, name="predictor")
