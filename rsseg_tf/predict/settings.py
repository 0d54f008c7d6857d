"""What all images of a run have in common."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rsseg_tf import __version__
from rsseg_tf.datasets.spec import RGB, DatasetSpec
from rsseg_tf.errors import ConfigError
from rsseg_tf.predict.decoding import check_review_value
from rsseg_tf.predict.options import InferenceOptions, OutputOptions, SceneOptions
from rsseg_tf.predict.vector_files import check_vector_file, require_vector_libraries
from rsseg_tf.rasters.stamps import stamp

__all__ = ["PredictionSettings"]


@dataclass(frozen=True)
class PredictionSettings:
    """How images are predicted and where their results go; can be sent to another process.

    Attributes:
        spec: The dataset that the model was trained for.
        save_dir: Folder for the results; made if missing.
        options: Windows and augmentation.
        scenes: How scenes are read.
        output: What is written.
        palette: Colours of the classes, see `palette_with`; those of the dataset where left out.

    Raises:
        ConfigError: When the options do not fit the dataset or each other.
        DataError: When the one file of polygons holds what is not ours to replace.
    """

    spec: DatasetSpec
    save_dir: Path
    options: InferenceOptions = field(default_factory=InferenceOptions)
    scenes: SceneOptions = field(default_factory=SceneOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    palette: tuple[RGB, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "save_dir", Path(self.save_dir))  # a text does as well
        check_review_value(self.output, self.spec)
        if self.scenes.match_gsd and self.model_gsd is None:
            raise ConfigError(
                f"--match_gsd needs the ground sampling distance that the model was trained on, and dataset "
                f"'{self.spec.name}' states none. Give it with --model_gsd METRES."
            )
        if self.output.vector is not None:
            require_vector_libraries(self.output.vector_suffix)
        if self.output.vector_file is not None:
            check_vector_file(self.output.vector_file)

    @property
    def colours(self) -> tuple[RGB, ...]:
        """The colours of the classes."""
        return self.palette or self.spec.palette

    @property
    def model_gsd(self) -> float | None:
        """Metres per pixel that the model was trained on; None where they are unknown."""
        return self.scenes.model_gsd or self.spec.gsd

    def identity(self) -> dict[str, Any]:
        """Returns all that results depend on, as JSON can hold it. Memory and batch size change no result."""
        options, scenes = asdict(self.options), asdict(self.scenes)
        options.pop("batch_size")
        output = asdict(self.output)
        if not self.output.stac:  # runs that ask for no items are those of versions that knew none
            del output["stac"], output["stac_datetime"]
        for name in ("max_memory", "resume", "allow_vrt_sources"):
            scenes.pop(name)
        scenes["aoi"] = None if self.scenes.aoi is None else [self.scenes.aoi.name, *stamp(self.scenes.aoi)]
        return {
            "version": __version__,
            "classes": list(self.spec.classes),
            "ignore_index": self.spec.ignore_index,
            "palette": list(self.colours),
            **options,
            **scenes,
            "model_gsd": self.model_gsd,
            **output,
        }
