"""Counts which of PaddleSeg's own configs `rsseg-tf config import` takes, and why it refuses the others.

    python -m benchmarks.paddleseg_configs --paddleseg .parity/PaddleSeg
    python -m benchmarks.paddleseg_configs --paddleseg .parity/PaddleSeg --write

`--write` puts the tables between the marks in docs/from_paddleseg.md. Nothing is run but the importer.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from rsseg_tf.config.paddleseg_tree import TreeEntry, import_tree

__all__ = ["tables"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "from_paddleseg.md"
MARKS = ("<!-- configs -->\n", "<!-- /configs -->\n")


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


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Count which of PaddleSeg's configs are imported.")
    parser.add_argument("--paddleseg", type=Path, default=Path(".parity/PaddleSeg"), help="a checkout")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    arguments = parser.parse_args()
    text = tables(import_tree(arguments.paddleseg / "configs"))
    print(text)
    if arguments.write:
        page = PAGE.read_text("utf-8")
        before, rest = page.split(MARKS[0])
        PAGE.write_text(f"{before}{MARKS[0]}{text}{MARKS[1]}{rest.split(MARKS[1])[1]}", "utf-8")


if __name__ == "__main__":
    main()
