"""The datasets that PaddleSeg knows by the `type` of `train_dataset`, and what becomes of each here.

PaddleSeg's classes hold the number of classes and find files by themselves; a config of rsseg-tf has class names and
two list files. A row says what the names are, and how the lists are made where the dataset brings none.
Source: paddleseg/datasets of PaddleSeg's develop branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["DATASETS", "KnownDataset"]

Colours = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class KnownDataset:
    """A dataset of PaddleSeg.

    Attributes:
        title: What people call it.
        classes: Names in the order of the ids.
        palette: Colours of the classes; empty for those that rsseg-tf chooses.
        lists: List files of the dataset itself, by the `mode` that reads them.
        commands: Lines of a shell that write `train.txt` or `val.txt`, by mode, to be typed in `dataset_root`.
        needs: What has to be done before those lines, as a sentence.
        refused: Why it cannot be taken, as the end of a sentence; None where it can.
    """

    title: str
    classes: tuple[str, ...] = ()
    palette: Colours = ()
    lists: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    needs: str = ""
    refused: str | None = field(default=None, kw_only=True)


_CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
_CITYSCAPES_COLOURS: Colours = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_VOC_COLOURS: Colours = (
    (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128), (128, 128, 128),
    (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128), (192, 0, 128), (64, 128, 128), (192, 128, 128),
    (0, 64, 0), (128, 64, 0), (0, 192, 0), (128, 192, 0), (0, 64, 128),
)  # fmt: skip

_LISTS = {"train": "train_list.txt", "val": "val_list.txt"}
_VESSELS = ("background", "vessel")


def _cityscapes(mode: str) -> str:
    pair = "s|leftImg8bit/(.*)_leftImg8bit.png|& gtFine/\\1_gtFine_labelTrainIds.png|"
    return f"ls leftImg8bit/{mode}/*/*_leftImg8bit.png | sed -E '{pair}' > {mode}.txt"


def _voc(names: str, labels: str, target: str) -> str:
    pair = f"s|.*|VOC2012/JPEGImages/&.jpg VOC2012/{labels}/&.png|"
    return f"sed -E '{pair}' VOC2012/ImageSets/Segmentation/{names}.txt {target}"


_VOC_TRAIN = _voc("train", "SegmentationClass", "> train.txt")

DATASETS: dict[str, KnownDataset] = {
    "Cityscapes": KnownDataset(
        "Cityscapes", _CITYSCAPES, _CITYSCAPES_COLOURS,
        commands={"train": _cityscapes("train"), "val": _cityscapes("val")},
        needs="The files *_labelTrainIds.png are made by cityscapesscripts, or PaddleSeg's "
              "tools/data/convert_cityscapes.py.",
    ),
    "PascalVOC": KnownDataset(
        "Pascal VOC 2012", _VOC, _VOC_COLOURS,
        commands={
            "train": _VOC_TRAIN,
            "trainval": _voc("trainval", "SegmentationClass", "> train.txt"),
            "trainaug": f"{_VOC_TRAIN}; " + _voc("aug", "SegmentationClassAug", ">> train.txt"),
            "val": _voc("val", "SegmentationClass", "> val.txt"),
        },
        needs="The augmented labels of mode trainaug are made by PaddleSeg's tools/data/voc_augment.py.",
    ),
    "OpticDiscSeg": KnownDataset("OpticDiscSeg", ("background", "optic disc"), lists=_LISTS),
    "DRIVE": KnownDataset("DRIVE", _VESSELS, lists=_LISTS),
    "STARE": KnownDataset("STARE", _VESSELS, lists=_LISTS),
    "CHASEDB1": KnownDataset("CHASE_DB1", _VESSELS, lists=_LISTS),
    "HRF": KnownDataset("HRF", _VESSELS, lists=_LISTS),
    "PPHumanSeg14K": KnownDataset(
        "PP-HumanSeg14K", ("background", "person"), lists={"train": "train.txt", "val": "val.txt"},
    ),
    # PaddleSeg separates the columns of these lists by a bar.
    "MiniDeepGlobeRoadExtraction": KnownDataset(
        "DeepGlobe roads", ("background", "road"),
        lists={"train": "train_pairs.txt", "val": "val_pairs.txt"},
        commands={mode: f"tr '|' '\\t' < {mode}.txt > {mode}_pairs.txt" for mode in ("train", "val")},
    ),
    "ADE20K": KnownDataset(
        "ADE20K",
        refused="its labels count from 1 and PaddleSeg takes 1 off while it reads them; there is no such step here. "
                "Rewrite the labels (0 becomes 255, the others one less), and name them in a section of type Dataset",
    ),
    "AutoNUE": KnownDataset(
        "AutoNUE", refused="it is in contrib/AutoNUE alone; name its files in a section of type Dataset",
    ),
    "CocoStuff": KnownDataset(
        "COCO-Stuff", refused="the names of its 171 classes are not kept here; name its files in a section of type "
                              "Dataset",
    ),
    "EG1800": KnownDataset(
        "EG1800", refused="PaddleSeg makes its labels while it reads them: it scales and blurs them",
    ),
    "MVTec_AD": KnownDataset(
        "MVTec AD", refused="it is for the detection of anomalies without labels of classes",
    ),
    "PSSLDataset": KnownDataset(
        "PSSL", refused="its 1,001 classes are more than the 256 that a label of bytes tells apart",
    ),
    "PascalContext": KnownDataset(
        "Pascal Context", refused="the names of its 60 classes are not kept here; name its files in a section of type "
                                  "Dataset",
    ),
    "SUPERVISELY": KnownDataset(
        "Supervisely", refused="PaddleSeg makes its labels while it reads them: it scales and blurs them",
    ),
    "UWMGI": KnownDataset("UWMGI", refused="it has several labels for a pixel"),
}  # fmt: skip
"""By `type`."""
