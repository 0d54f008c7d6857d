r"""What a temperature is worth on tiles that it was not fitted to: ECE without one, and with one by each of two rules.

The validation scenes are split in two. A temperature is fitted to one half and the expected calibration error (ECE) is
that of the other half, and the other way round; the mean of both is told. `brier` is the rule of `rsseg-tf eval
--calibrate`, `likelihood` the usual one.

    python -m benchmarks.calibration output/best_model --scenes '^tile\d+_\d+'
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.measuring import Figures, parser_of

if TYPE_CHECKING:
    from rsseg_tf.metrics import LogitSample

Halves = tuple["LogitSample", "LogitSample"]


def sampled(folder: Path, overrides: Sequence[str], scenes: re.Pattern[str], *, flips: bool) -> Halves:
    """Returns the logits of some pixels of each half of the validation scenes.

    Args:
        folder: The checkpoint.
        overrides: As --set.
        scenes: Finds the scene in the name of a tile.
        flips: Whether the model's own augmentation is used.
    """
    from rsseg_tf.checkpoint import config_file
    from rsseg_tf.config import load_config
    from rsseg_tf.evaluate.details import Details
    from rsseg_tf.evaluate.evaluation import plan_evaluation
    from rsseg_tf.files.lists import read_list
    from rsseg_tf.metrics import LogitSample
    from rsseg_tf.predictors import open_predictor

    config = load_config(config_file(folder), list(overrides))
    root = Path(config.dataset.root)
    samples = list(read_list(root / config.dataset.val_list, root))
    model = open_predictor(folder, config=config)
    options = model.options
    if not flips:
        options = dataclasses.replace(options, flip_horizontal=False, flip_vertical=False, rotate90=False)
    names = [found[0] if (found := scenes.search(sample.image.name)) else sample.image.stem for sample in samples]
    order = {name: place for place, name in enumerate(sorted(set(names)))}
    halves = LogitSample(config.dataset.spec.num_classes), LogitSample(config.dataset.spec.num_classes)
    for place, half in enumerate(halves):
        own = [sample for sample, name in zip(samples, names, strict=True) if order[name] % 2 == place]
        details = Details(config.dataset.spec, own, sample=half, detailed=False)
        plan_evaluation(config, own).run(model.predict, options, look=details.look)
    return halves


def likeliest(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature at which the labels are most likely, of steps of 1 %."""
    from rsseg_tf.metrics.calibration import negative_log_likelihood

    few = slice(None, None, max(1, len(labels) // 2**16))
    temperatures = np.geomspace(0.25, 4, 279)
    return float(min(temperatures, key=lambda one: negative_log_likelihood(logits[few], labels[few], float(one))))


def held_out(halves: Halves, rule: Callable[[np.ndarray, np.ndarray], float]) -> tuple[float, list[float]]:
    """Returns the mean ECE of the halves, each with the temperature of the other, and the temperatures."""
    from rsseg_tf.metrics.calibration import counted

    errors, temperatures = [], []
    for fitted, other in (halves, halves[::-1]):
        temperatures.append(rule(*fitted.pixels))
        errors.append(counted(*other.pixels, temperatures[-1]).ece)
    return float(np.mean(errors)), temperatures


def main() -> None:
    """Measures each checkpoint with and without its augmentation."""
    parser = parser_of(__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="trained models")
    parser.add_argument(
        "--scenes", type=re.compile, default=re.compile("^.*$"), help="finds the scene in a tile's name"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides the config")
    options = parser.parse_args()
    from rsseg_tf.metrics import Calibration

    rules = {
        "without": lambda logits, labels: 1.0,
        "brier": lambda logits, labels: Calibration.of(logits, labels).temperature,
        "likelihood": likeliest,
    }
    figures = Figures("calibration")
    figures.table("model", "prediction", "ECE without, %", "brier", "likelihood", "temperatures, brier", "likelihood ")
    for number, folder in enumerate(options.checkpoints):
        for flips in (False, True):
            halves = sampled(folder, options.set, options.scenes, flips=flips)
            found = {name: held_out(halves, rule) for name, rule in rules.items()}
            told = [f"{100 * error:.2f}" for error, _ in found.values()]
            values = [" and ".join(f"{one:.2f}" for one in found[name][1]) for name in ("brier", "likelihood")]
            figures.row(f"{number + 1}", "as configured" if flips else "one look", *told, *values)
    if options.write:
        figures.write()


if __name__ == "__main__":
    main()
