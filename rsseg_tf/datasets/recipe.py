"""What a dataset is made by: its spec, how scenes are found in its download (or made up), and how they are cut."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from rsseg_tf.datasets.label_codings import LabelCoding
from rsseg_tf.datasets.spec import YX, DatasetSpec
from rsseg_tf.errors import DataError
from rsseg_tf.files.archives import Member

__all__ = ["Download", "Recipe", "SourceScene"]

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class SourceScene:
    """One image of a download, with its mask if it has one.

    Cutting makes a `SceneRecord` of it; evaluation stitches its tiles into a `TiledScene`.

    Attributes:
        split: `"train"`, `"val"` or `"test"`.
        stem: What the names of its tiles begin with; may hold `/` to put them into folders.
        image: The image.
        mask: The mask; None for a scene without a label.
        whole: Copy the image as it is instead of cutting it.
        group: A part of the split that gets a list of its own, such as `"urban"`.
    """

    split: str
    stem: str
    image: Member
    mask: Member | None
    whole: bool = False
    group: str = ""

    @property
    def source(self) -> str:
        """Size and stamp of its files, by which a changed source is recognised."""
        return " ".join(f"{member.size}:{member.stamp}" for member in (self.image, self.mask) if member is not None)


@dataclass(frozen=True)
class Download:
    """The files of a dataset as they were downloaded, and which of them the user wants.

    Attributes:
        members: Every file of the sources.
        sources: What messages call the sources.
        splits: The wanted splits; None for all.
        labels: The wanted kind of masks, one of `Recipe.labels`; empty where the dataset has one kind.
    """

    members: Sequence[Member]
    sources: str
    splits: tuple[str, ...] | None = None
    labels: str = ""

    def wants(self, split: str) -> bool:
        """Tells whether the scenes of a split are wanted."""
        return self.splits is None or split in self.splits

    def enter(self, files: dict[Key, Member], key: Key, member: Member, what: str) -> None:
        """Enters a file under its key.

        Raises:
            DataError: When another file has that key already.
        """
        if key in files:
            raise DataError(f"{self.sources} holds {what} twice: {files[key]} and {member}. Remove one.")
        files[key] = member

    def check_pairs(self, images: Mapping[Key, Member], masks: Mapping[Key, Member]) -> None:
        """Checks that each image has its mask and each mask its image.

        Raises:
            DataError: When one is missing; the message names the first five files without a counterpart.
        """
        for kind, files, others in (("mask", images, masks), ("image", masks, images)):
            unpaired = sorted(files[key].path for key in files.keys() - others.keys())
            if unpaired:
                raise DataError(
                    f"{self.sources}: {len(unpaired)} file{'s have' if len(unpaired) > 1 else ' has'} no {kind}: "
                    f"{', '.join(unpaired[:5])}{', …' if len(unpaired) > 5 else ''}. Complete the dataset."
                )


@dataclass(frozen=True)
class Recipe:
    """Everything that `rsseg-tf prepare` needs to know about one dataset.

    The scenes come from `find_scenes` or from `make_scene`; a recipe has one of the two.

    Attributes:
        dataset: The spec; for images without labels, the dataset's name.
        output: Folder of the prepared dataset by default, where the shipped configs look for it.
        find_scenes: Returns the scenes of a download. It raises `DataError` when the download is not this dataset or
            lacks files.
        make_scene: Returns the image `(S, S, 3)` and the label `(S, S)`, both uint8, of a made-up scene of side S.
        coding: How masks encode the classes; None without masks.
        splits: Splits that the dataset has; a split `"test"` has no masks.
        tile_size: Side of a tile in pixels by default.
        overlap: Pixels that neighbouring tiles share by default.
        cuttings: Ways to cut from which the user chooses, the default first: `"benchmark"` (no overlap) and
            `"overlap"` (half a tile by default). Empty where only `overlap` decides.
        labels: Kinds of masks from which the user chooses, the default first; empty where there is one kind.
        bands: What to read of the images; see `rsseg_tf.rasters.pixel_rows.RowBands`.
        label_suffix: What a label's name has more than its image's, before `.png`.
        off_palette_fraction: Share of the pixels of a mask, 0..1, that may be off the palette by default.
    """

    dataset: DatasetSpec | str
    output: Path
    find_scenes: Callable[[Download], Sequence[SourceScene]] | None = None
    make_scene: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]] | None = None
    coding: LabelCoding | None = None
    splits: tuple[str, ...] = ("train", "val")
    tile_size: int = 512
    overlap: int = 0
    cuttings: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    bands: Literal["as_rgb", "rgb_only", "stored"] = "rgb_only"
    label_suffix: str = ""
    off_palette_fraction: float = 0.0

    @property
    def name(self) -> str:
        """The dataset's name, as on the command line and in configs."""
        return self.dataset if isinstance(self.dataset, str) else self.dataset.name

    @property
    def tile_names(self) -> str:
        """Pattern of the tiles' names."""
        return YX if isinstance(self.dataset, str) or self.dataset.tile_names is None else self.dataset.tile_names

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the fields of `PrepareOptions` that the dataset has a use for."""
        if self.make_scene is not None:
            return ("tile_size", "scenes_train", "scenes_val", "seed")
        if isinstance(self.dataset, str):
            return ("tile_size", "overlap", "image_format", "workers")
        choices = ("cutting",) * bool(self.cuttings) + ("labels",) * bool(self.labels)
        return ("tile_size", "overlap", "splits", "off_palette_fraction", "workers", *choices)
