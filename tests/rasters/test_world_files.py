"""Places beside images: world files, `.prj` files and GDAL's side files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine

from rsseg_tf.rasters.world_files import ImagePlace, image_place

WORLD = "0.5\n0\n0\n-0.5\n500000.25\n5399999.75\n"
PLACE = Affine(0.5, 0, 500000, 0, -0.5, 5400000)
UTM = CRS.from_epsg(32633)
DRIVERS = {".jpg": "JPEG", ".jpeg": "JPEG", ".JPG": "JPEG", ".png": "PNG", ".tif": "GTiff"}


def write_image(path: Path) -> Path:
    pixels = np.zeros((40, 50, 3), np.uint8)
    if path.suffix == ".tif":
        with rasterio.open(path, "w", driver="GTiff", width=50, height=40, count=3, dtype="uint8") as target:
            target.write(pixels.transpose(2, 0, 1))
    else:
        path.write_bytes(cv2.imencode(path.suffix.lower(), pixels)[1].tobytes())
    return path


def place(path: Path) -> ImagePlace:
    return image_place(path, DRIVERS[path.suffix])


@pytest.mark.parametrize(
    ("image", "world"),
    [
        (".jpg", ".jgw"), (".jpg", ".JGW"), (".JPG", ".wld"), (".jpeg", ".jgw"), (".jpeg", ".jpegw"), (".jpg", ".Jgw"),
        (".png", ".pgw"), (".png", ".pngw"), (".tif", ".tfw"), (".tif", ".TFW"), (".tif", ".tifw"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("text", [WORLD, WORLD.replace(".", ","), "\ufeff" + WORLD.replace("\n", "\r\n")])
def test_world_files_give_the_transform_and_prj_files_the_crs(
    tmp_path: Path, image: str, world: str, text: str
) -> None:
    path = write_image(tmp_path / f"a{image}")
    path.with_suffix(world).write_text(text, "utf-8")
    found = place(path)
    assert found.transform == PLACE and found.crs is None and found.note is None
    path.with_suffix(".prj").write_text(UTM.to_wkt(version="WKT1_ESRI"), "utf-8")
    assert place(path).crs == UTM


def test_gdals_side_file_counts(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    (tmp_path / "a.png.aux.xml").write_text(
        f"<PAMDataset><SRS>{UTM.to_wkt()}</SRS>"
        "<GeoTransform>500000, 0.5, 0, 5400000, 0, -0.5</GeoTransform></PAMDataset>",
        "utf-8",
    )
    assert place(path) == image_place(path, "PNG") and place(path).crs == UTM and place(path).transform == PLACE


def test_what_cannot_be_used_is_told(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.jpg")
    assert place(path).note is None and place(path).transform == Affine.identity()
    for text in ("1\n2\n", "a b c d e f", "0\n0\n0\n0\n1\n1\n", "nan 0 0 1 1 1"):
        (tmp_path / "a.jgw").write_text(text, "utf-8")
        assert "a.jgw beside it is no world file of six numbers" in (place(path).note or "")
    (tmp_path / "a.jgw").write_text(WORLD, "utf-8")
    (tmp_path / "a.prj").write_bytes(b"\xff\x00 no WKT")
    assert "the CRS in a.prj beside it is not understood" in (place(path).note or "") and place(path).transform == PLACE
