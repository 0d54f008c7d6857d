"""Times every engine for one model at full width, and shows what `--engine auto` picks.

    python -m benchmarks.engines --output /tmp/exported

The model is that of `benchmarks.export`, with random kernels, so that engines that round differ more from Keras than
they do for a trained model; pass --tolerance for the choice that a trained one gets. It is exported twice, for images
of 512x512 alone and for any size, and its checkpoint is measured too. The load of the machine at the start and
the end is printed with the numbers.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks.export import CONFIGS, SIDE, checkpoint_of
from benchmarks.measuring import Figures, parser_of
from rsseg_tf.engines import DEFAULT_TOLERANCE, Choice, choose
from rsseg_tf.errors import ExportError
from rsseg_tf.export import ExportOptions, export_model, load_trained
from rsseg_tf.manifest import Format
from rsseg_tf.rasters.windows import Size

FORMATS: dict[str, tuple[Format, ...]] = {
    "fixed": ("savedmodel", "onnx", "openvino", "tflite"),
    "any": ("onnx", "tflite"),
}


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
            tile = Size(SIDE, SIDE) if size == "fixed" else None
            export_model(
                trained, places[size], ExportOptions(FORMATS[size], ("float32", "dynamic"), tile), notify=print
            )  # fmt: skip
    found: list[tuple[str, Choice | str]] = []
    for label, place in places.items():
        config = trained.config if place == checkpoint else None
        try:
            found.append((label, choose(place, config=config, size=Size(SIDE, SIDE), tolerance=tolerance)))
        except ExportError as error:
            found.append((label, str(error)))
    return found


def main() -> None:
    """Prints a Markdown table and the lines that eval and predict print."""
    parser = parser_of(__doc__)
    parser.add_argument("--model", choices=CONFIGS, default="deeplabv3p_resnet50_vd")
    parser.add_argument("--output", type=Path, help="where files go; a temporary folder by default")
    parser.add_argument("--tolerance", type=float, default=DEFAULT_TOLERANCE)
    parser.add_argument("--sizes", nargs="+", choices=FORMATS, default=list(FORMATS), help="of the exports")
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        found = choices(arguments.model, arguments.output or Path(temporary), arguments.tolerance, arguments.sizes)
    figures = Figures("engines")
    figures.table("runs", "engine", "s per image", "differs, % of pixels")
    for label, choice in found:
        for name, one in choice.measured.items() if isinstance(choice, Choice) else ():
            figures.row(label, name, one.obstacle or f"{one.ms / 1000:.2f}", f"{one.lost:.3f}")
    figures.add(f"\nLoad: {before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end.")
    for label, choice in found:
        print(f"{label}: {choice}")
    if arguments.write:
        figures.write()


if __name__ == "__main__":
    main()
