"""Tiny downloads with the layouts of the real ones, and what the original's scripts would make of them.

The originals are PaddleSeg's contrib/RSSegBenchmark/data/prepare_{potsdam,vaihingen,isaid}.py; their arithmetic is
written out here in its own words, so that tests run without them. Where the real outputs of the originals are at hand,
test_original_outputs.py compares with those as well.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from rasterio.io import MemoryFile

from rsseg_tf.datasets.isaid import ISAID
from rsseg_tf.datasets.isprs import POTSDAM
from rsseg_tf.datasets.loveda import LOVEDA
from rsseg_tf.prepare.output import PrepareReport
from rsseg_tf.prepare.run import PrepareOptions, prepare_dataset

BLACK = (0, 0, 0)


def prepare(dataset: str, source: Path | Sequence[Path], output: Path, **options: Any) -> PrepareReport:
    """Prepares a dataset in this process unless the options say otherwise."""
    return prepare_dataset(dataset, source, output, PrepareOptions(**{"workers": 1, **options}))


def scene(seed: int, height: int, width: int, num_values: int, block: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Returns an image ``(H, W, 3)`` and values ``(H, W)`` in 0..num_values-1, both uint8, in blocks."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, num_values, (-(-height // block), -(-width // block)))
    values = coarse.repeat(block, 0).repeat(block, 1)[:height, :width].astype(np.uint8)
    return rng.integers(1, 256, (height, width, 3)).astype(np.uint8), values


def encoded(array: np.ndarray, suffix: str) -> bytes:
    """Returns the bytes of an RGB or one-band image as ``.png``, ``.jpg`` or ``.tif``."""
    if suffix == ".tif":
        bands = array[..., np.newaxis] if array.ndim == 2 else array
        height, width, count = bands.shape
        with MemoryFile() as memory:
            profile = {"height": height, "width": width, "count": count, "dtype": bands.dtype}
            with memory.open(driver="GTiff", **profile) as file:
                file.write(bands.transpose(2, 0, 1))
            return bytes(memory.read())
    pixels = array[..., ::-1] if array.ndim == 3 else array
    return cv2.imencode(suffix, np.ascontiguousarray(pixels))[1].tobytes()


def write_zip(path: Path, members: Mapping[str, bytes], *, macos: bool = False) -> Path:
    """Writes a zip file, optionally with what macOS puts in front."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            if macos:
                file.writestr(f"__MACOSX/{Path(name).parent.as_posix()}/._{Path(name).name}", b"mac")
            file.writestr(name, content)
    return path


def unpack(root: Path) -> None:
    """Unpacks every zip file below a folder into a folder of its name, and removes it."""
    for path in list(root.rglob("*.zip")):
        with zipfile.ZipFile(path) as file:
            file.extractall(path.with_suffix(""))
        path.unlink()


Scenes = dict[str, tuple[np.ndarray, np.ndarray]]
"""Image and ids by scene."""


def isprs_scenes(names: Iterable[str], height: int, width: int) -> Scenes:
    """Makes scenes whose ids are 0..5 and 255 (boundary)."""
    scenes = {}
    for number, name in enumerate(names):
        image, values = scene(number, height, width, 7)
        scenes[name] = image, np.where(values == 6, 255, values).astype(np.uint8)
    return scenes


def isprs_mask(ids: np.ndarray) -> np.ndarray:
    """Returns the mask in colours of ids 0..5 and 255."""
    return np.array([*POTSDAM.palette, BLACK], np.uint8)[np.where(ids == 255, 6, ids)]


def potsdam(root: Path, names: Iterable[str] = ("2_10", "6_9", "2_13"), size: tuple[int, int] = (70, 90)) -> Scenes:
    """Writes ``2_Ortho_RGB.zip`` and ``5_Labels_all_noBoundary.zip``."""
    scenes = isprs_scenes(names, *size)
    images, masks = {}, {}
    for name, (image, ids) in scenes.items():
        images[f"2_Ortho_RGB/top_potsdam_{name}_RGB.tif"] = encoded(image, ".tif")
        images[f"2_Ortho_RGB/top_potsdam_{name}_RGB.tfw"] = b"0.05\n0\n0\n-0.05\n366676.0\n5808966.0\n"
        masks[f"top_potsdam_{name}_label_noBoundary.tif"] = encoded(isprs_mask(ids), ".tif")
    write_zip(root / "2_Ortho_RGB.zip", images)
    write_zip(root / "5_Labels_all_noBoundary.zip", masks)
    return scenes


def vaihingen(
    root: Path, names: Iterable[str] = ("area1", "area37", "area2", "area38"), size: tuple[int, int] = (65, 80)
) -> Scenes:
    """Writes the two zip files of Vaihingen, with participants' masks, heights, and a mask of area9 too many."""
    scenes = isprs_scenes(names, *size)
    images, masks = {}, {}
    for name, (image, ids) in scenes.items():
        images[f"top/top_mosaic_09cm_{name}.tif"] = encoded(image, ".tif")
        full = encoded(isprs_mask(np.where(ids == 255, 0, ids)), ".tif")
        images[f"gts_for_participants/top_mosaic_09cm_{name}.tif"] = full
        images[f"dsm/dsm_09cm_matching_{name}.tif"] = encoded(ids, ".tif")
        masks[f"top_mosaic_09cm_{name}_noBoundary.tif"] = encoded(isprs_mask(ids), ".tif")
    masks["top_mosaic_09cm_area9_noBoundary.tif"] = next(iter(masks.values()))
    write_zip(root / "ISPRS_semantic_labeling_Vaihingen.zip", images)
    write_zip(root / "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip", masks)
    return scenes


def isaid(root: Path, size: tuple[int, int] = (50, 65)) -> Scenes:
    """Writes the zip files of iSAID: three parts for training, one for validation, two of test images."""
    scenes: Scenes = {}
    for split, first, parts in (("train", 0, 3), ("val", 100, 1), ("test", 200, 2)):
        masks = {}
        for part in range(parts):
            name = f"P{first + part:04d}"
            image, ids = scene(first + part, *size, ISAID.num_classes)
            scenes[name] = image, ids
            write_zip(root / split / "images" / f"part{part + 1}.zip", {f"images/{name}.png": encoded(image, ".png")})
            colours = np.array(ISAID.palette, np.uint8)[ids]
            masks[f"images/{name}_instance_color_RGB.png"] = encoded(colours, ".png")
        if split != "test":
            write_zip(root / split / "Semantic_masks" / "images.zip", masks)
            instances = {f"images/{name}_instance_id_RGB.png": b"none of ours" for name in scenes}
            write_zip(root / split / "Instance_masks" / "images.zip", instances)
    return scenes


def loveda(root: Path, size: int = 32) -> Scenes:
    """Writes ``Train.zip``, ``Val.zip`` and ``Test.zip``; the masks hold 0 for "no data" and 1..7."""
    scenes: Scenes = {}
    for split, first in (("Train", 0), ("Val", 2522), ("Test", 4191)):
        members = {}
        for offset, domain in enumerate(("Rural", "Urban")):
            image, values = scene(first + offset, size, size, LOVEDA.num_classes + 1)
            name = str(first + offset)
            scenes[f"{domain.lower()}_{name}"] = image, (values.astype(int) - 1).astype(np.uint8)  # 0 becomes 255
            members[f"{split}/{domain}/images_png/{name}.png"] = encoded(image, ".png")
            if split != "Test":
                members[f"{split}/{domain}/masks_png/{name}.png"] = encoded(values, ".png")
        write_zip(root / f"{split}.zip", members)
    return scenes


def original_isprs_tiles(stem: str, array: np.ndarray, clip: int, stride: int) -> dict[str, np.ndarray]:
    """Returns the tiles that the original's `clip_big_image` writes, by name; later ones replace earlier ones."""
    height, width = array.shape[:2]
    tiles = {}
    for y in range(-(-(height - clip) // stride) + 1):
        for x in range(-(-(width - clip) // stride) + 1):
            x0, y0 = min(x * clip, width - clip), min(y * clip, height - clip)  # the stride only counts the windows
            tiles[f"{stem}_{x0}_{y0}_{x0 + clip}_{y0 + clip}"] = array[y0 : y0 + clip, x0 : x0 + clip]
    return tiles


def original_isaid_tiles(stem: str, array: np.ndarray, patch: int, overlap: int) -> dict[str, np.ndarray]:
    """Returns the tiles that the original's `slide_crop_image` writes, by name."""
    height, width = array.shape[:2]
    tiles = {}
    for x in range(0, width, patch - overlap):
        for y in range(0, height, patch - overlap):
            x0, y0 = min(x, width - patch), min(y, height - patch)
            tiles[f"{stem}_{y0}_{y0 + patch}_{x0}_{x0 + patch}"] = array[y0 : y0 + patch, x0 : x0 + patch]
    return tiles


def read_tif(path: Path) -> np.ndarray:
    """Reads a TIFF as ``(H, W, C)``."""
    with rasterio.open(path) as file:
        return file.read().transpose(1, 2, 0)


def zip_of(folder: Path) -> bytes:
    """Returns a zip file of a folder's files, stored."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder))
    return buffer.getvalue()
