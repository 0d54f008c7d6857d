"""Learning rates as pure functions of the step."""

from __future__ import annotations

import math

from rsseg_tf.config.schema import CosineSchedule, PolySchedule

__all__ = ["learning_rate"]


def learning_rate(step: int, schedule: PolySchedule | CosineSchedule, iters: int) -> float:
    """Returns the learning rate of a step.

    During `warmup_steps` it rises linearly from `warmup_start_lr` to `learning_rate`; over the remaining steps it
    decays to `end_lr`, which it reaches at step `iters` and keeps. Polynomial decay without warm-up is Paddle's
    `PolynomialDecay(learning_rate, decay_steps=iters, end_lr, power)`.

    Args:
        step: Steps taken so far (0 for the first one).
        schedule: Kind and numbers.
        iters: Steps in all.
    """
    start, end, warmup = schedule.learning_rate, schedule.end_lr, schedule.warmup_steps
    if step < warmup:
        return schedule.warmup_start_lr + (start - schedule.warmup_start_lr) * step / warmup
    progress = min(1.0, (step - warmup) / max(1, iters - warmup))  # a trial run may be shorter than the warm-up
    if isinstance(schedule, PolySchedule):
        return (start - end) * (1.0 - progress) ** schedule.power + end
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))
