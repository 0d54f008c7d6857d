"""Times every engine for one model at full width, and shows what `--engine auto` picks.

    .venv/bin/python -m benchmarks.engines --output /tmp/exported

The model is that of `benchmarks.export`, with random kernels, so that engines that round differ more from Keras than
they do for a trained model; pass --tolerance for the choice that a trained one gets. It is exported twice, for images
of 512x512 alone and for any size, and its checkpoint is measured too. The load of the machine at the start and
the end is printed with the numbers.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks.export import CONFIGS, SIDE, checkpoint_of
from rsseg_tf.engines import DEFAULT_TOLERANCE, Choice, choose
from rsseg_tf.errors import ExportError
from rsseg_tf.export import ExportOptions, export_model, load_trained

FORMATS = {"fixed": ("savedmodel", "onnx", "openvino", "tflite"), "any": ("onnx", "tflite")}


def choices(name: str, folder: Path, tolerance: float, sizes: list[str]) -> list[tuple[str, Choice | str]]:
    """Exports a model where that was not done yet, and chooses for its checkpoint and for each export."""
    checkpoint = folder / name / "checkpoint"
    if not checkpoint.is_dir():
        checkpoint = checkpoint_of(name, folder)
    trained = load_trained(checkpoint)
    places = {"checkpoint": checkpoint}
    for size in sizes:
        places[size] = folder / name / f"engines_{size}"
        if not places[size].is_dir():
            tile = (SIDE, SIDE) if size == "fixed" else None
            export_model(
                trained, places[size], ExportOptions(FORMATS[size], ("float32", "dynamic"), tile), notify=print
            )  # fmt: skip
    found: list[tuple[str, Choice | str]] = []
    for label, place in places.items():
        config = trained.config if place == checkpoint else None
        try:
            found.append((label, choose(place, config=config, size=(SIDE, SIDE), tolerance=tolerance)))
        except ExportError as error:
            found.append((label, str(error)))
    return found


def main() -> None:
    """Prints a Markdown table and the lines that eval and predict print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=CONFIGS, default="deeplabv3p_resnet50_vd")
    parser.add_argument("--output", type=Path, help="where files go; a temporary folder by default")
    parser.add_argument("--tolerance", type=float, default=DEFAULT_TOLERANCE)
    parser.add_argument("--sizes", nargs="+", choices=FORMATS, default=list(FORMATS), help="of the exports")
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        found = choices(arguments.model, arguments.output or Path(temporary), arguments.tolerance, arguments.sizes)
    print(f"Load average: {before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end")
    print("| export | engine | s per image | differs, % of pixels |")
    print("|---|---|--:|--:|")
    for label, choice in found:
        for name, one in choice.measured.items() if isinstance(choice, Choice) else ():
            print(f"| {label} | {name} | {one.obstacle or f'{one.ms / 1000:.2f}'} | {one.lost:.3f} |")
    for label, choice in found:
        print(f"{label}: {choice}")


if __name__ == "__main__":
    main()
