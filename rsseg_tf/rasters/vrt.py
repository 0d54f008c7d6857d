"""Refuses VRTs that name more than files beside them; GDAL itself follows a VRT to any file, server or program.

A VRT is a text that names other rasters. A stranger's VRT may name `/home/me/private.tif`, which then shows in the
pictures of the prediction, or a server, which then learns of the run. So a VRT is read here before GDAL reads it. Only
elements and attributes that are known to be harmless pass, because GDAL takes file names from many places (it looks for
attributes where an element is missing, and ignores capitals).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from rsseg_tf.errors import DataError
from rsseg_tf.files import SIDE_SUFFIX, readable_name
from rsseg_tf.files.reading import read_bytes
from rsseg_tf.rasters.gdal import HEAD_BYTES, is_vrt
from rsseg_tf.rasters.headers import BIGTIFF_SIGNATURES, JPEG_SIGNATURE, PNG_SIGNATURE, TIFF_SIGNATURES
from rsseg_tf.rasters.windows import Size

__all__ = ["require_near_sources", "require_plain_sides", "vrt_size"]

_REMEDY = "If you trust it, allow it with --allow_vrt_sources (in a config: data.allow_vrt_sources)."
# Room for mosaics of many thousand sources, each of which takes a few lines of text.
_LARGEST_VRT = 64 * 2**20
_LARGEST_SIDE = 16 * 2**20  # of a file of statistics beside a raster
_DEEPEST = 8  # VRTs in VRTs; tools that build mosaics nest two or three
_SOURCES = frozenset({"SourceFilename", "SourceDataset"})
_SYSTEMS = frozenset({"SRS", "SourceSRS", "TargetSRS"})
# A coordinate reference system as text or code; GDAL opens anything else as a file or a URL.
_WELL_KNOWN = re.compile(r"[A-Za-z_0-9]+\[|(EPSG|ESRI|OGC|IGNF|IAU_2015):\w+$")
_TIFFS = (*TIFF_SIGNATURES, *BIGTIFF_SIGNATURES)
_SIGNATURES = (
    *_TIFFS, PNG_SIGNATURE, JPEG_SIGNATURE,
    b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51",
)  # fmt: skip
_ELEMENTS = _SOURCES | frozenset(
    """
    VRTDataset SRS GeoTransform Metadata MDI GCPList GCP BlockXSize BlockYSize OverviewList Overview MaskBand
    VRTRasterBand Description ColorInterp ColorTable Entry NoDataValue HideNoDataValue UnitType Offset Scale
    CategoryNames Category Histograms HistItem HistMin HistMax BucketCount IncludeOutOfRange Approximate HistCounts
    SimpleSource ComplexSource AveragedSource KernelFilteredSource NoDataFromMaskSource SourceBand SourceProperties
    SrcRect DstRect NODATA ScaleOffset ScaleRatio LUT Exponent SrcMin SrcMax DstMin DstMax Clamp ColorTableComponent
    UseMaskBand MaskValueThreshold RemappedValue Kernel Size Coefs PixelFunctionType PixelFunctionArguments
    SourceTransferType SkipNonContributingSources
    GDALWarpOptions WarpMemoryLimit ResampleAlg WorkingDataType Option Options Transformer ApproxTransformer MaxError
    BaseTransformer GenImgProjTransformer SrcGeoTransform SrcInvGeoTransform DstGeoTransform DstInvGeoTransform
    ReprojectTransformer ReprojectionTransformer SourceSRS TargetSRS BandList BandMapping SrcNoDataReal SrcNoDataImag
    DstNoDataReal DstNoDataImag Cutline CutlineBlendDist SrcAlphaBand DstAlphaBand CoordinateOperation
    SrcApproxErrorInPixel DstApproxErrorInPixel SrcGCPTransformer DstGCPTransformer GCPTransformer Order Reversed
    """.split()
)
_ATTRIBUTES = frozenset(
    """
    rasterXSize rasterYSize subClass dataType band blockXSize blockYSize relativeToVRT relativetoVRT shared resampling
    key domain dataAxisToSRSAxisMapping coordinateEpoch Projection Id Info Pixel Line X Y Z RasterXSize RasterYSize
    DataType BlockXSize BlockYSize xOff yOff xSize ySize c1 c2 c3 c4 name src dst normalized k
    """.split()
)
# Raw bands, pansharpened and processed datasets name files in other ways; so does metadata about overviews, subdatasets
# and geolocation.
_VALUES = {
    "subClass": ("VRTWarpedDataset", "VRTSourcedRasterBand", "VRTWarpedRasterBand", "VRTDerivedRasterBand"),
    "domain": ("", "IMAGE_STRUCTURE", "RPC", "IMAGERY", "TIFF"),
    "relativeToVRT": ("0", "1"),
    "relativetoVRT": ("0", "1"),
}


def require_near_sources(path: Path) -> None:
    """Raises `DataError` unless a VRT, and every VRT that it names, names nothing but rasters near it.

    Near is its own folder with all below; by a relative path also the folders beside its own (`../tiles/a.tif`).

    Args:
        path: The VRT.
    """
    here = Path(os.path.abspath(path)).parent
    waiting, seen = [(Path(os.path.abspath(path)), 0)], set()
    while waiting:
        vrt, depth = waiting.pop()
        if vrt in seen:
            continue
        seen.add(vrt)
        if depth > _DEEPEST:
            raise DataError(f"{readable_name(path)} is a VRT of VRTs, more than {_DEEPEST} deep. {_REMEDY}")
        # Near the first VRT, not near the one that names the source: else each VRT could go one folder further up.
        for text, is_relative in _sources(vrt):
            source = _near(path, vrt, here, text, is_relative)
            require_plain_sides(source)
            if _is_vrt_source(path, source, text):
                waiting.append((source, depth + 1))


def require_plain_sides(path: Path, *, depth: int = 0) -> None:
    """Raises `DataError` if what lies beside a raster sends GDAL elsewhere.

    GDAL takes masks and overviews from `NAME.msk` and `NAME.ovr`, whatever format these are in, and overviews from
    whatever file `NAME.aux.xml` names.

    Args:
        path: The raster.
        depth: Number of suffixes that were added to the name of the raster that is read.
    """
    for suffix in (".msk", ".ovr"):
        side = path.with_name(path.name + suffix)
        if depth < _DEEPEST and side.exists():
            if not read_bytes(side, HEAD_BYTES).startswith(_TIFFS):
                raise _refused(side, "it lies beside an image as its mask or overview, and is no TIFF", what="a file")
            require_plain_sides(side, depth=depth + 1)
    side = path.with_name(path.name + SIDE_SUFFIX)
    if side.exists():
        text = read_bytes(side, _LARGEST_SIDE + 1)
        # GDAL ignores capitals in names of metadata, hence `upper`.
        if len(text) > _LARGEST_SIDE or b"OVERVIEW_FILE" in text.upper():
            raise _refused(side, "it lies beside an image and names a file of overviews", what="a file")


def vrt_size(path: Path) -> Size:
    """Returns the size in a VRT's header, without opening its sources; zeros if they are missing."""
    head = read_bytes(path, HEAD_BYTES)
    sides = [
        re.search(rb"\b" + name + rb"\s*=\s*[\"'](\d{1,9})[\"']", head) for name in (b"rasterYSize", b"rasterXSize")
    ]
    height, width = (int(side[1]) if side else 0 for side in sides)
    return Size(height, width)


def _sources(vrt: Path) -> Iterator[tuple[str, bool]]:
    """Yields what a VRT names, and whether relative to itself; raises for elements that may name more."""
    for element in _parsed(vrt).iter():
        if element.tag not in _ELEMENTS:
            raise _refused(vrt, f"it has a <{readable_name(str(element.tag))}>, which may name other files")
        for name, value in element.attrib.items():
            if name not in _ATTRIBUTES:
                raise _refused(
                    vrt, f"its <{element.tag}> has the attribute '{readable_name(name)}', which may name a file"
                )
            if value not in _VALUES.get(name, (value,)):
                raise _refused(vrt, f'its <{element.tag}> has {name}="{_short(value)}", which may name a file')
        system = element.text if element.tag in _SYSTEMS else element.get("Projection")
        if system and not _WELL_KNOWN.match(system.strip()):
            raise _refused(vrt, f"its <{element.tag}> is '{_short(system)}', which may be a file")
        if element.tag in _SOURCES:
            # GDAL knows both spellings of the attribute; with both it is unclear which one counts.
            if len(element) or {"relativeToVRT", "relativetoVRT"} <= set(element.attrib):
                raise _refused(vrt, f"its <{element.tag}> names its file twice")
            relative = element.get("relativeToVRT", element.get("relativetoVRT", "0"))
            yield (element.text or "").strip(), relative == "1"


def _parsed(vrt: Path) -> ElementTree.Element:
    """Reads a VRT as XML without the parts in which two readers may differ."""
    data = read_bytes(vrt, _LARGEST_VRT + 1)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused(vrt, "it is not text in UTF-8") from error
    if len(data) > _LARGEST_VRT:
        raise _refused(vrt, f"it has more than {_LARGEST_VRT // 2**20} MiB")
    for mark in ("<!DOCTYPE", "<!ENTITY", "<![CDATA["):
        if mark in text:
            raise _refused(vrt, f"it holds {mark}, in which text can be hidden")
    # Without its declaration, which may name another encoding than the one that GDAL assumes.
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", text, count=1)
    try:
        root = ElementTree.fromstring(text.strip())  # entities were refused above
    except ElementTree.ParseError as error:
        raise DataError(f"{readable_name(vrt)} is a damaged VRT file: {error}. Build it again.") from error
    if root.tag != "VRTDataset":
        raise _refused(vrt, "its first element is not VRTDataset")
    if re.search(r"<SourceFilename[^>]*>[^<]*<!--|<SourceDataset[^>]*>[^<]*<!--", text):
        raise _refused(vrt, "a comment splits the name of a source")
    return root


def _near(path: Path, vrt: Path, here: Path, text: str, is_relative: bool) -> Path:
    """Returns the file that a source means; raises if it is none, or not near."""
    # A scheme has two letters at least, so that drives (C:) pass. `<` and `{` begin a VRT or JSON in place of a name.
    if not text or re.match(r"[A-Za-z0-9_+]{2,}:", text) or text.startswith(("/vsi", "<", "{", "\\\\")):
        raise _refused(path, f"its source '{_short(text)}' is no plain file but a server, an archive or a program")
    if any(ord(letter) < 32 for letter in text):  # readers differ in where the name ends
        raise _refused(path, f"its source '{_short(text)}' has a control character in its name")
    source = Path(os.path.normpath(vrt.parent / text if is_relative else os.path.abspath(text)))
    relative = is_relative and not os.path.isabs(text)
    # One folder up is allowed by a relative path, but never the root of the file system.
    folder = here.parent if relative and here.parent != here.parent.parent else here
    if not source.is_relative_to(folder):
        raise _refused(path, f"its source '{_short(text)}' lies outside of its folder")
    return source


def _is_vrt_source(path: Path, source: Path, text: str) -> bool:
    """Tells whether a source is a VRT; raises if it is no raster whose format names no other files."""
    try:
        with source.open("rb") as handle:
            head = handle.read(HEAD_BYTES)
    except OSError as error:
        why = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise DataError(
            f"{readable_name(path)} is a damaged VRT file: its source '{_short(text)}' {why}. Mend its sources, "
            "or build it again."
        ) from error
    if is_vrt(head):
        return True
    if not head.startswith(_SIGNATURES):
        raise _refused(path, f"its source '{_short(text)}' is no TIFF, PNG, JPEG or JPEG 2000")
    return False


def _refused(path: Path, why: str, what: str = "a VRT") -> DataError:
    return DataError(f"{readable_name(path)} is {what} that is not followed: {why}. {_REMEDY}")


def _short(text: str) -> str:
    line = readable_name(" ".join(text.split()))
    return line if len(line) <= 120 else line[:119] + "…"
