"""What `rsseg-tf quickstart` and the README's lines of Python reach, and what they cost.

    python -m benchmarks.quickstart FOLDER

Both run in processes of their own in FOLDER; the lines are those of the README. CPU time is user and system time of the
whole process, start and compilation included. Prints a table in Markdown.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measuring import Figures, parser_of

README = Path(__file__).resolve().parents[1] / "README.md"


def readme_lines() -> str:
    """Returns the first Python of the README, with a line that keeps the scores."""
    found = re.search(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.M | re.S)
    if found is None:
        raise SystemExit(f"{README} has no Python")
    return found[1].replace("rsseg_tf.evaluate(run.best_model)", 'rsseg_tf.evaluate(run.best_model, save_dir="scores")')


def cpu_seconds(arguments: list[str], folder: Path) -> float:
    """Runs Python in a folder and returns the CPU time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Runs both and prints."""
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path, help="for data, models and results; new, or empty")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    ways = (
        ("`rsseg-tf quickstart`", ["-m", "rsseg_tf.cli", "quickstart"], "quickstart/report/eval.json"),
        ("eight lines of Python", ["-c", readme_lines()], "scores/eval.json"),
    )
    figures, begun = Figures("quickstart"), False
    for name, arguments, scores in ways:
        seconds = cpu_seconds(arguments, options.folder)
        result: dict[str, Any] = json.loads((options.folder / scores).read_text("utf-8"))
        classes = result["classes"]
        if not begun:
            figures.table("", "CPU s", "mIoU", *(f"IoU {entry['name']}" for entry in classes))
            begun = True
        ious = [f"{100 * entry['iou']:.1f}" for entry in classes]
        figures.row(name, f"{seconds:.0f}", f"{100 * result['macro']['miou']:.1f}", *ious)
    if options.write:
        figures.write()


if __name__ == "__main__":
    main()
