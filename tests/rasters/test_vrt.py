"""What a VRT may name: rasters near it, and nothing else unless the user allows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from rsseg_tf.data import SampleReader
from rsseg_tf.datasets import custom_spec
from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import Sample
from rsseg_tf.rasters.gdal import Trust
from rsseg_tf.rasters.images import write_png
from rsseg_tf.rasters.scenes import read_pixels
from rsseg_tf.rasters.vrt import require_near_sources, vrt_size

PIXELS = np.arange(4 * 6, dtype=np.uint8).reshape(1, 4, 6)
SPEC = custom_spec("grey", ("a", "b"), bands=1)


def write_tiff(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver="GTiff", height=4, width=6, count=1, dtype="uint8") as target:
        target.write(PIXELS)
    return path


def vrt_of(source: str, *, relative: str = "1", more: str = "", attributes: str = "", kind: str = "") -> str:
    name = f'<SourceFilename relativeToVRT="{relative}">{source}</SourceFilename>' if source else ""
    return (
        f'<VRTDataset rasterXSize="6" rasterYSize="4">{more}<VRTRasterBand dataType="Byte" band="1"{kind}>'
        f"<SimpleSource{attributes}>{name}<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for VRTs, with rasters in it, below it, beside it, and far away."""
    for name in ("home/in/a.tif", "home/in/tiles/a.tif", "home/tiles/a.tif", "far/secret.tif", "secret.tif"):
        write_tiff(tmp_path / name)
    return tmp_path / "home/in"


@pytest.mark.parametrize("source", ["a.tif", "tiles/a.tif", "./tiles/../a.tif", "../tiles/a.tif"])
@pytest.mark.parametrize("name", ["m.vrt", "m.tif"])
def test_rasters_near_it_are_followed(folder: Path, source: str, name: str) -> None:
    (folder / name).write_text(vrt_of(source))
    np.testing.assert_array_equal(read_pixels(folder / name, SPEC).values[..., 0], PIXELS[0])
    assert vrt_size(folder / name) == (4, 6)


def test_an_absolute_path_into_its_own_folder_is_followed(folder: Path) -> None:
    (folder / "m.vrt").write_text(vrt_of(str(folder / "tiles/a.tif"), relative="0"))
    np.testing.assert_array_equal(read_pixels(folder / "m.vrt", SPEC).values[..., 0], PIXELS[0])


REFUSED = {
    "absolute": vrt_of("{far}/secret.tif", relative="0"),
    "absolute beside": vrt_of("{home}/tiles/a.tif", relative="0"),
    "absolute, called relative": vrt_of("{far}/secret.tif"),
    "two folders up": vrt_of("../../secret.tif"),
    "two folders up by a detour": vrt_of("tiles/../../../secret.tif"),
    "http": vrt_of("http://localhost:1/a.tif", relative="0"),
    "http, called relative": vrt_of("http://localhost:1/a.tif"),
    "vsicurl": vrt_of("/vsicurl/http://localhost:1/a.tif", relative="0"),
    "vsizip": vrt_of("/vsizip/{far}/a.zip/a.tif", relative="0"),
    "a page of a TIFF": vrt_of("GTIFF_DIR:1:{far}/secret.tif", relative="0"),
    "inline": vrt_of("&lt;GDAL_WMS/&gt;", relative="0"),
    "a service in a file": vrt_of("service.xml"),
    "a text": vrt_of("notes.txt"),
    "CDATA": vrt_of("<![CDATA[../../secret.tif]]>"),
    "an entity": "<!DOCTYPE VRTDataset [<!ENTITY x 'secret'>]>" + vrt_of("../../&x;.tif"),
    "a comment in the name": vrt_of("a.tif<!-- -->/../../../secret.tif"),
    "an attribute for an element": vrt_of("", attributes=' SourceFilename="{far}/secret.tif"'),
    "capitals": vrt_of("a.tif").replace("SourceFilename", "SOURCEFILENAME"),
    "neither 0 nor 1": vrt_of("../../secret.tif", relative="2"),
    "an overview": vrt_of("a.tif", more='<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">x</MDI></Metadata>'),
    "options of a driver": vrt_of("a.tif").replace("<SourceBand>", "<OpenOptions></OpenOptions><SourceBand>"),
    "a file of a CRS": vrt_of("a.tif", more="<SRS>http://localhost:1/crs</SRS>"),
    "raw": vrt_of("a.tif", kind=' subClass="VRTRawRasterBand"'),
    "python": vrt_of("a.tif", kind=' subClass="VRTDerivedRasterBand"').replace(
        "<SimpleSource>", "<PixelFunctionLanguage>Python</PixelFunctionLanguage><SimpleSource>"
    ),
    "nested": vrt_of("nested.vrt"),
    "another encoding": "latin",
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused_in_one_line_that_says_how_to_allow_it(folder: Path, case: str) -> None:
    (folder / "service.xml").write_text("<GDAL_WMS></GDAL_WMS>")
    (folder / "notes.txt").write_text("no raster")
    (folder / "nested.vrt").write_text(vrt_of("../../secret.tif"))
    text = REFUSED[case].replace("{far}", str(folder.parents[1] / "far")).replace("{home}", str(folder.parent))
    data = text.encode() if text != "latin" else vrt_of("täuschung.tif").encode("latin-1")
    for name in ("m.vrt", "m.tif"):  # whatever it is called
        (folder / name).write_bytes(data)
        with pytest.raises(DataError, match=rf"{name} is a VRT that is not followed: .* --allow_vrt_sources") as caught:
            read_pixels(folder / name, SPEC)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".msk", ".ovr", ".aux.xml", ".ovr.aux.xml", ".msk.ovr"])
def test_what_lies_beside_an_image_leads_nowhere(folder: Path, suffix: str) -> None:
    image = folder / "a.tif"
    for side in (".msk", ".ovr"):
        if suffix.startswith(f"{side}."):
            write_tiff(folder / f"a.tif{side}")
    text = '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">/x.tif</MDI></Metadata></PAMDataset>'
    (folder / f"a.tif{suffix}").write_text(text if suffix.endswith(".xml") else vrt_of("../../secret.tif"))
    with pytest.raises(DataError, match=r"a\.tif\S+ is a file that is not followed: it lies beside an image"):
        read_pixels(image, SPEC)
    (folder / "m.vrt").write_text(vrt_of("a.tif"))
    with pytest.raises(DataError, match=r"a\.tif\S+ is a file that is not followed: it lies beside an image"):
        read_pixels(folder / "m.vrt", SPEC)
    assert read_pixels(image, SPEC, trust=Trust(vrt_sources=True)).values.shape == (4, 6, 1)


def test_a_user_can_allow_it(folder: Path) -> None:
    (folder / "m.vrt").write_text(vrt_of(str(folder.parents[1] / "far/secret.tif"), relative="0"))
    write_png(folder / "label.png", np.zeros((4, 6), np.uint8))
    sample = Sample(folder / "m.vrt", folder / "label.png")
    with pytest.raises(DataError, match="lies outside of its folder"):
        SampleReader([sample], SPEC)
    image, _ = SampleReader([sample], SPEC, trust=Trust(vrt_sources=True))(0)
    np.testing.assert_array_equal(image[..., 0], PIXELS[0])


def test_a_source_that_is_missing_is_named(folder: Path) -> None:
    (folder / "m.vrt").write_text(vrt_of("tile_17.tif"))
    with pytest.raises(DataError, match=r"m\.vrt is a damaged VRT file: its source 'tile_17\.tif' does not exist"):
        read_pixels(folder / "m.vrt", SPEC)


def test_what_gdal_writes_is_followed(folder: Path) -> None:
    from rasterio.shutil import copy
    from rasterio.vrt import WarpedVRT

    copy(folder / "a.tif", folder / "m.vrt", driver="VRT")
    require_near_sources(folder / "m.vrt")
    profile = {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 500000, 0, -1, 5400000)}
    with rasterio.open(folder / "a.tif", "r+") as target:
        target.crs, target.transform = profile["crs"], profile["transform"]
    with rasterio.open(folder / "a.tif") as source, WarpedVRT(source, crs="EPSG:4326") as warped:
        copy(warped, folder / "w.vrt", driver="VRT")
    assert 'subClass="VRTWarpedDataset"' in (folder / "w.vrt").read_text()
    require_near_sources(folder / "w.vrt")
