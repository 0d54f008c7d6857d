"""What all images of a run have in common."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rsseg_tf import __version__
from rsseg_tf.datasets.spec import RGB, DatasetSpec
from rsseg_tf.predict.options import InferenceOptions, OutputOptions, SceneOptions
from rsseg_tf.predict.writing import stamp

__all__ = ["PredictionSettings"]


@dataclass(frozen=True)
class PredictionSettings:
    """What all jobs of a run have in common; it can be sent to another process.

    Attributes:
        spec: the data set that the model was trained for.
        palette: colours of its classes.
        save_dir: folder for the results.
        options: windows and augmentation.
        scenes: how scenes are read.
        output: what is written.
        labels_too: whether to write the label map of a TIFF.
    """

    spec: DatasetSpec
    palette: tuple[RGB, ...]
    save_dir: Path
    options: InferenceOptions
    scenes: SceneOptions
    output: OutputOptions
    labels_too: bool = True

    def identity(self) -> dict[str, Any]:
        """Returns all that results depend on, as JSON can hold it. Memory and batch size change no result."""
        options, scenes = asdict(self.options), asdict(self.scenes)
        for name in ("batch_size",):
            options.pop(name)
        for name in ("max_memory", "resume", "allow_vrt_sources"):
            scenes.pop(name)
        scenes["aoi"] = None if self.scenes.aoi is None else [self.scenes.aoi.name, *stamp(self.scenes.aoi)]
        spec = {"classes": self.spec.classes, "ignore_index": self.spec.ignore_index, "palette": self.palette}
        return {
            "version": __version__,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in spec.items()},
            **options,
            **scenes,
            **asdict(self.output),
            "labels_too": self.labels_too,
        }
