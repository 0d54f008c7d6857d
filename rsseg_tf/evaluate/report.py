"""The page of an evaluation: scores, and where the model fails, in one file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.evaluate.charts import Line, chart
from rsseg_tf.evaluate.details import Details, ShownTile
from rsseg_tf.files.writing import output_file
from rsseg_tf.metrics import Calibration, SegmentationScores
from rsseg_tf.metrics.boundary import BOUNDARY_RATIO
from rsseg_tf.metrics.calibration import ECE_BINS
from rsseg_tf.metrics.objects import FOUND_SHARE, size_names
from rsseg_tf.predict.pages import STYLE, check_page_place, image_tag, page, swatches
from rsseg_tf.predict.pictures import IGNORED_COLOUR

__all__ = ["check_report_place", "write_report"]

_MARK = "rsseg-tf eval"  # in each page, so that no other file is overwritten
_MOST_CONFUSIONS = 6
_BLUE, _ORANGE = "#1f77b4", "#e6740e"
_STYLE = f"""{STYLE}
h2 {{ font-size: 1.1rem; margin: 2.2rem 0 .4rem; }}
p {{ max-width: 60rem; margin: .3rem 0 .8rem; color: #444; }}
table {{ border-collapse: collapse; margin: .4rem 0; }}
th, td {{ padding: .2rem .6rem; text-align: right; font-variant-numeric: tabular-nums; border: 1px solid #e2e2e2; }}
th:first-child, td:first-child {{ text-align: left; }}
thead th {{ background: #f4f4f4; }}
.wide {{ overflow-x: auto; }}
.cards {{ display: flex; flex-wrap: wrap; gap: .8rem; }}
.cards div {{ border: 1px solid #ddd; border-radius: 6px; padding: .5rem .9rem; }}
.cards b {{ display: block; font-size: 1.25rem; }}
.charts {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
.tiles {{ display: grid; gap: 1.2rem; }}
.tiles figure {{ min-width: 0; }}
.tiles img {{ flex: 0 1 288px; }}
.facts td {{ text-align: left; overflow-wrap: anywhere; }}
svg text {{ font: 11px system-ui, sans-serif; fill: #333; }}
svg .grid {{ stroke: #e4e4e4; fill: none; }}
svg .line {{ fill: none; stroke-width: 2; }}
svg .diagonal {{ stroke: #888; stroke-dasharray: 4 3; fill: none; }}
svg rect {{ fill: #c6d9ea; }}
"""


def check_report_place(path: Path) -> None:
    """Raises DataError if the path is a file that is no page of ours."""
    check_page_place(path, _MARK.encode(), "page of rsseg-tf eval")


def write_report(
    path: Path,
    scores: SegmentationScores,
    details: Details,
    facts: Mapping[str, str],
    calibration: Calibration | None = None,
) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: The file; its folder must exist.
        scores: The scores.
        details: All else that was counted.
        facts: What was evaluated and how, for the top of the page.
        calibration: The temperature that was fitted in the same run, if one was.

    Raises:
        DataError: When the path is a file that is not ours, or cannot be written.
    """
    check_report_place(path)
    palette = list(zip(scores.classes, details.spec.palette, strict=True))
    sections = [
        _facts(facts),
        _cards(scores, details),
        _classes(scores, details),
        _confusion(scores),
        _objects(scores.classes, details),
        _thresholds(scores.classes, details),
        _reliability(details, calibration),
        f"<h2>Worst and best tiles</h2>{swatches([*palette, ('ignored', IGNORED_COLOUR), ('wrong', (214, 39, 40))])}",
        _tiles("Most wrong pixels", details.worst),
        _tiles("Fewest wrong pixels", details.best),
    ]
    title = f"Evaluation: {details.spec.name}"
    content = page(title, "\n".join(sections), generator=_MARK, style=_STYLE)
    with output_file(path) as partial:
        partial.write_bytes(content.encode("utf-8", "backslashreplace"))


# === Sections ===


def _facts(facts: Mapping[str, str]) -> str:
    cells = ((html.escape(name), html.escape(value)) for name, value in facts.items())
    rows = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in cells)
    return f'<table class="facts">{rows}</table>'


def _cards(scores: SegmentationScores, details: Details) -> str:
    boundary = details.boundaries.class_iou[scores.in_means]
    mean = float(np.nanmean(boundary)) if np.isfinite(boundary).any() else float("nan")
    values = {
        "mIoU": _percent(scores.miou),
        "Acc": _percent(scores.acc),
        "Kappa": _number(scores.kappa),
        "Dice": _percent(scores.dice),
        "mean Boundary IoU": _percent(mean),
        "ECE": _percent(details.confidence.ece),
        "temperature": f"{details.temperature:.4g}",
    }
    cards = "".join(f"<div>{name}<b>{value}</b></div>" for name, value in values.items())
    return f'<div class="cards">{cards}</div>'


def _classes(scores: SegmentationScores, details: Details) -> str:
    columns = (
        scores.class_iou, details.boundaries.class_iou, scores.class_precision, scores.class_recall, scores.class_dice,
    )  # fmt: skip
    rows = []
    for index, name in enumerate(scores.classes):
        note = "" if scores.in_means[index] else " (not in the means)"
        cells = [_shaded(float(column[index])) for column in columns]
        rows.append([html.escape(name + note), *cells, f"<td>{scores.label_pixels[index]:,}</td>"])
    return (
        "<h2>Classes</h2><p>Boundary IoU (Cheng et al., 2021) counts only pixels that lie within "
        f"{100 * BOUNDARY_RATIO:g} % of a tile's diagonal of the outline of label or prediction.</p>"
        + _table(["class", "IoU", "Boundary IoU", "precision", "recall", "Dice", "pixels"], rows)
    )


def _confusion(scores: SegmentationScores) -> str:
    counts = scores.confusion
    rows = []
    for index, name in enumerate(scores.classes):
        total = max(1, int(counts[index].sum()))
        cells = [_shaded(int(count) / total, f"{count:,} pixels") for count in counts[index]]
        rows.append([html.escape(name), *cells])
    wrong = counts - np.diag(np.diagonal(counts))
    ranked = [divmod(int(place), len(counts)) for place in np.argsort(-wrong, axis=None, kind="stable")]
    items = "".join(
        f"<li>{html.escape(scores.classes[row])} taken for {html.escape(scores.classes[column])}: "
        f"{_percent(wrong[row, column] / counts.sum())} of all pixels</li>"
        for row, column in ranked[:_MOST_CONFUSIONS]
        if wrong[row, column]
    )
    return (
        "<h2>Confusion</h2><p>Of the pixels labelled as the class of a row, the share that is predicted as the class "
        f"of a column, in percent. The most frequent mistakes:</p><ul>{items or '<li>none</li>'}</ul>"
        + _table(["label \\ prediction", *map(html.escape, scores.classes)], rows)
    )


def _objects(classes: Sequence[str], details: Details) -> str:
    objects = details.objects
    rows = []
    for index, name in enumerate(classes):
        cells = [
            _shaded(float(share), f"{_percent(recall)} of the pixels of {count:,} objects", f" ({count:,})")
            for share, count, recall in zip(
                objects.found_share[index], objects.objects[index], objects.recall[index], strict=True
            )
        ]
        rows.append([html.escape(name), *cells])
    return (
        "<h2>Objects by size</h2><p>Objects are connected pixels of a class in the label of a tile; columns are their "
        f"sizes in pixels. The share in percent of which at least {100 * FOUND_SHARE:g} % is predicted right, and "
        "their number.</p>" + _table(["class", *size_names()], rows)
    )


def _thresholds(classes: Sequence[str], details: Details) -> str:
    thresholds, precision, recall = details.confidence.curves()
    charts = "".join(
        chart(
            name,
            [
                Line("precision", _BLUE, thresholds, precision[index]),
                Line("recall", _ORANGE, thresholds, recall[index]),
            ],
            x_label="least confidence",
            y_label="share",
        )
        for index, name in enumerate(classes)
    )
    return (
        "<h2>Precision and recall against confidence</h2><p>What is left of each class when pixels of less confidence "
        "get no class, as by <code>rsseg-tf predict --min_confidence</code>.</p>"
        f'<div class="charts">{charts}</div>'
    )


def _reliability(details: Details, calibration: Calibration | None) -> str:
    told = {
        "as predicted" if details.temperature == 1 else f"temperature {details.temperature:.4g}": details.confidence
    }
    if calibration is not None:
        told = {
            "without calibration": calibration.before,
            f"temperature {calibration.temperature:.4g}": calibration.after,
        }
    charts = []
    for name, counts in told.items():
        pixels, confidence, accuracy = counts.reliability()
        title = f"{name}: ECE {_percent(counts.ece)}"
        line = Line("mean confidence, accuracy", _ORANGE, confidence, accuracy)
        labels = {"x_label": "confidence", "y_label": "accuracy"}
        charts.append(chart(title, [line], bars=accuracy.tolist(), diagonal=True, **labels))
        shares = (pixels / max(1, counts.pixels)).tolist()
        charts.append(chart(f"{name}: pixels", bars=shares, x_label="confidence", y_label="share of pixels"))
    text = (
        f"Pixels by the probability of their class, in {ECE_BINS} bins: a model whose confidence is true is right as "
        "often as it says, on the diagonal. ECE is the mean distance from it, over pixels (Guo et al., 2017)."
    )
    if calibration is not None:
        text += (
            f" The temperature {calibration.temperature:.4g} was fitted to these tiles: to {calibration.pixels:,} "
            f"pixels drawn from {calibration.seen:,}. What it is worth, other tiles tell."
        )
    return f'<h2>Calibration</h2><p>{text}</p><div class="charts">{"".join(charts)}</div>'


def _tiles(title: str, tiles: Iterable[ShownTile]) -> str:
    figures = [
        "<figure><div>"
        + image_tag(tile.image, "image")
        + image_tag(tile.label, "label", smooth=False)
        + image_tag(tile.prediction, "prediction", smooth=False)
        + image_tag(tile.errors, "errors")
        + f"</div><figcaption>{html.escape(tile.name)}<br><small>{_percent(1 - tile.accuracy)} of the pixels are "
        f"wrong; mIoU of the classes that occur {_percent(tile.miou)}</small></figcaption></figure>"
        for tile in tiles
    ]
    if not figures:
        return ""
    return (
        f"<h2>{title}</h2><p>Picture, label, prediction, and errors in red.</p>"
        f'<div class="tiles">{"".join(figures)}</div>'
    )


# === Cells ===


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; the first cell of a row is text, the others are `<td>` elements."""
    titles = "".join(f"<th>{name}</th>" for name in head)
    body = "".join(f"<tr><td>{row[0]}</td>{''.join(row[1:])}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _shaded(share: float, hint: str = "", behind: str = "") -> str:
    """Returns a cell with a share in percent, the darker the larger; an empty one for nan."""
    if np.isnan(share):
        return "<td></td>"
    title = f' title="{html.escape(hint)}"' if hint else ""
    return f'<td{title} style="background: rgba(31, 119, 180, {0.55 * share:.3f})">{100 * share:.1f}{behind}</td>'


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.2f} %"


def _number(value: float | NDArray) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}"
