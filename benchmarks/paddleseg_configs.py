"""Counts which of PaddleSeg's own configs `rsseg-tf config import` takes, and compares the logits of their models.

    python -m benchmarks.paddleseg_configs --paddleseg .parity/PaddleSeg
    python -m benchmarks.paddleseg_configs --paddleseg .parity/PaddleSeg --original .parity/bin/python --compare
    python -m benchmarks.paddleseg_configs --paddleseg .parity/PaddleSeg --compare --write

`--write` puts the tables into docs/from_paddleseg.md. `--compare` builds each pair of model and backbone
in PaddleSeg, with values that follow from names, and loads its file of weights into the model of the imported config.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsseg_tf.config.paddleseg_tree import TreeEntry, import_tree

__all__ = ["architectures", "comparison", "tables"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "from_paddleseg.md"
ROOT = Path(__file__).resolve().parents[1]
MARKS = ("<!-- configs -->\n", "<!-- /configs -->\n")
COMPARED = ("<!-- logits -->\n", "<!-- /logits -->\n")


def _reason(entry: TreeEntry) -> str:
    """Returns the kind of reason that decides."""
    kinds = {
        "model": "the model",
        "loss": "a loss",
        "train_dataset.transforms": "transforms of training",
        "val_dataset.transforms": "transforms of validation",
        "train_dataset": "the dataset",
        "optimizer": "the optimizer",
    }
    for start, kind in kinds.items():
        if any(line.startswith(start) for line in entry.problems):
            return kind
    return "another setting"


def tables(entries: Sequence[TreeEntry]) -> str:
    """Returns the tables as Markdown.

    Args:
        entries: What became of PaddleSeg's folder `configs`.
    """
    counts = Counter(entry.result for entry in entries)
    folders: dict[str, list[TreeEntry]] = defaultdict(list)
    for entry in entries:
        if not entry.is_base:
            folders[entry.path.parts[0]].append(entry)
    lines = [
        f"{counts['imported']} of the {len(entries) - counts['base']} with a model; {counts['base']} more are bases.",
        "",
        "| folder | imported | refused |",
        "|---|--:|--:|",
    ]
    for folder, found in folders.items():
        taken = sum(entry.result == "imported" for entry in found)
        if taken:
            lines.append(f"| {folder} | {taken} | {len(found) - taken} |")
    others = [folder for folder, found in folders.items() if all(entry.result == "refused" for entry in found)]
    why = Counter(_reason(entry) for entry in entries if entry.result == "refused")
    lines += ["", "Of what is refused, by the first of these reasons that applies:", ""]
    lines += ["| without a counterpart | configs |", "|---|--:|"]
    lines += [f"| {kind} | {count} |" for kind, count in why.most_common()]
    lines += ["", f"No config is imported of {', '.join(others)}."]
    return "\n".join(lines) + "\n"


def architectures(entries: Sequence[TreeEntry]) -> list[TreeEntry]:
    """Returns the first config of each pair of model and backbone, with its options, that was imported."""
    found: dict[str, TreeEntry] = {}
    for entry in entries:
        if entry.imported is not None and not entry.is_base:
            model = copy.deepcopy(entry.imported.values["model"])
            model["backbone"].pop("pretrained", None)
            found.setdefault(json.dumps(model, sort_keys=True), entry)
    return list(found.values())


def run_original(entries: Sequence[TreeEntry], configs: Path, original: Path, folder: Path) -> None:
    """Writes weights and logits of PaddleSeg's models; what is in the folder already stays.

    Args:
        entries: Whose models.
        configs: PaddleSeg's folder of configs.
        original: A Python with Paddle.
        folder: Where to write `N.pdparams` and `N.npz`.
    """
    missing = [number for number in range(len(entries)) if not (folder / f"{number}.npz").is_file()]
    words = [f"{number}={configs / entries[number].path}" for number in missing]
    script = ROOT / "tests" / "parity" / "paddleseg" / "run_configs.py"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{configs.parent}"}
    if words:
        command = [str(original), str(script), str(folder), *words]
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)


def comparison(entries: Sequence[TreeEntry], folder: Path) -> str:
    """Returns a table of how far logits are from PaddleSeg's.

    Args:
        entries: What is compared.
        folder: From `run_original`.
    """
    from rsseg_tf.build import build_model
    from rsseg_tf.config.document import Document
    from rsseg_tf.config.loader import config_from_document
    from rsseg_tf.weights.pretrained import load_part, open_source, parts

    lines = ["| model | backbone | of | tensors | largest difference |", "|---|---|---|--:|--:|"]
    for number, entry in enumerate(entries):
        assert entry.imported is not None
        values = copy.deepcopy(entry.imported.values)
        values["model"].pop("pretrained", None)
        values["model"]["backbone"].pop("pretrained", None)
        config = config_from_document(Document(values), str(entry.path))
        model = build_model(config)
        whole = next(part for part in parts(config, model) if part.section == "model")
        report = load_part(model, whole, open_source(str(folder / f"{number}.pdparams")))
        with np.load(folder / f"{number}.npz") as file:
            image, theirs = file["image"], file["logits"]
        ours = np.asarray(model(image, training=False)["main"])
        share = float(np.abs(ours - theirs).max() / theirs.std())
        backbone = values["model"]["backbone"]["name"]
        name = values["model"]["name"]
        lines.append(f"| {name} | {backbone} | {entry.path.as_posix()} | {report.tensors} | {share:.1e} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def _written(page: str, marks: tuple[str, str], text: str) -> str:
    before, rest = page.split(marks[0])
    return f"{before}{marks[0]}{text}{marks[1]}{rest.split(marks[1])[1]}"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Count which of PaddleSeg's configs are imported.")
    parser.add_argument("--paddleseg", type=Path, default=Path(".parity/PaddleSeg"), help="a checkout")
    parser.add_argument("--original", type=Path, default=Path(".parity/bin/python"), help="a Python with Paddle")
    parser.add_argument("--compare", action="store_true", help="also compare logits")
    parser.add_argument("--folder", type=Path, help="keep what PaddleSeg computes there, and take it from there again")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    arguments = parser.parse_args()
    configs = arguments.paddleseg.absolute() / "configs"
    entries = import_tree(configs)
    text = tables(entries)
    print(text)
    logits = None
    if arguments.compare:
        models = architectures(entries)
        with tempfile.TemporaryDirectory() as place:
            folder = arguments.folder or Path(place)
            run_original(models, configs, arguments.original, folder)
            logits = comparison(models, folder)
    if arguments.write:
        page = _written(PAGE.read_text("utf-8"), MARKS, text)
        PAGE.write_text(page if logits is None else _written(page, COMPARED, logits), "utf-8")


if __name__ == "__main__":
    main()
