"""Makes docs/pictures: what the README and the tutorial of scenes show.

    python docs/make_pictures.py FOLDER

runs `rsseg-tf quickstart` and the commands and Python of docs/tutorial_scene.md in the folder, unless an earlier call
has done so, and draws what they wrote. All scenes are synthetic: no picture of somebody's data is kept in the project.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import rasterio

from rsseg_tf.datasets.synthetic import SYNTHETIC
from rsseg_tf.predict import as_rgb, montage
from rsseg_tf.rasters.images import read_image, read_label

PICTURES = Path(__file__).with_name("pictures")
TUTORIAL = Path(__file__).with_name("tutorial_scene.md")
SCENE = "scene_001"  # of quickstart's validation scenes: it has all classes
QUALITY = 86  # of the JPEG files


def main() -> None:
    """Runs what is to be shown, and draws it."""
    folder = Path(sys.argv[1])
    (folder / "tutorial").mkdir(parents=True, exist_ok=True)
    if not (folder / "quickstart/report/overview.png").is_file():
        run(["-m", "rsseg_tf.cli", "quickstart", "-o", "quickstart"], folder)
    if not (folder / "tutorial/result").is_dir():
        run_tutorial(folder / "tutorial")
    PICTURES.mkdir(exist_ok=True)
    draw_quickstart(folder / "quickstart")
    draw_tutorial(folder / "tutorial")


def run(arguments: list[str], folder: Path) -> None:
    """Runs Python in a folder."""
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True)


def run_tutorial(folder: Path) -> None:
    """Runs the blocks of the tutorial in order."""
    for kind, text in re.findall(r"^```(\w*)\n(.*?)^```$", TUTORIAL.read_text("utf-8"), re.M | re.S):
        if kind == "python":
            run(["-c", text], folder)
        for line in text.splitlines():
            if line.startswith("rsseg-tf "):
                run(["-m", "rsseg_tf.cli", *line.split()[1:]], folder)


def draw_quickstart(folder: Path) -> None:
    """Draws a validation scene, its label and its prediction in a row."""
    panels = montage(
        as_rgb(read_image(folder / f"data/img_dir/val/{SCENE}.tif"), SYNTHETIC),
        read_label(folder / f"data/ann_dir/val/{SCENE}.tif").astype(np.uint8),
        read_label(folder / f"result/pseudo_color_prediction/{SCENE}.png").astype(np.uint8),
        SYNTHETIC.classes,
        SYNTHETIC.palette,
        panel_side=400,
    )
    write("quickstart", panels)


def draw_tutorial(folder: Path) -> None:
    """Draws the scene with the polygons laid over, and the way from the scene to the map."""
    image = read_image(folder / "ortho.tif")
    label = read_label(folder / "example/ann_dir/train/scene_000.tif").astype(np.uint8)
    colours = np.array(SYNTHETIC.palette, np.uint8)
    edges = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    laid_over = np.where(label[..., None] > 0, (image * 0.55 + colours[label] * 0.45).astype(np.uint8), image)
    laid_over[edges] = colours[label][edges]
    write("scene_labels", np.hstack([half(image), np.full((512, 12, 3), 255, np.uint8), half(laid_over)]))
    with rasterio.open(folder / "result/geotiff_prediction/ortho.tif") as result:
        found, colour_of = result.read(1), result.colormap(1)
    own = [line.strip() for line in (folder / "data/mine/labels.txt").read_text("utf-8").splitlines()]
    known = ["background" if name == "ground" else name for name in SYNTHETIC.classes]
    palette = [colour_of[own.index(name)][:3] for name in known]
    table = np.array([known.index(name) for name in own], np.uint8)
    write("scene_map", montage(image, label, table[found], known, palette, panel_side=400))


def half(image: np.ndarray) -> np.ndarray:
    """Returns a picture of 1024 x 1024 pixels at half of its size."""
    return cv2.resize(image, (512, 512), interpolation=cv2.INTER_AREA)


def write(name: str, picture: np.ndarray) -> None:
    """Writes RGB as JPEG."""
    cv2.imwrite(str(PICTURES / f"{name}.jpg"), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


if __name__ == "__main__":
    main()
