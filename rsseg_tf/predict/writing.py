"""Rasters that grow row by row, survive a kill, and appear whole under their name.

While a scene is predicted its rasters have hidden names (`.NAME.partial.tif`). From time to time they are closed, so
that all blocks and their index are on the disk, and a journal beside them records how many rows are finished. A later
run with the same options continues from there. The journal also records which rasters have their names already, so
that one which fails at the end (a full disk) costs neither the others nor the prediction.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from rsseg_tf import __version__
from rsseg_tf.datasets.spec import RGB, DatasetSpec
from rsseg_tf.errors import ConfigError, DataError, reason
from rsseg_tf.files import SIDE_SUFFIX, atomic_path, hold, remove_file, replace_file, short_stem
from rsseg_tf.files.journal import Journal
from rsseg_tf.predict.decoding import PROBABILITY_NODATA, PROBABILITY_STEPS, Product
from rsseg_tf.predict.styling import add_class_table, class_entries
from rsseg_tf.rasters.scenes import Scene
from rsseg_tf.rasters.stamps import stamp
from rsseg_tf.styles import PaletteEntry

__all__ = [
    "BLOCK",
    "RasterFile",
    "Rows",
    "SceneWriter",
    "partial_file",
    "raster_file",
    "unwritable",
]

BLOCK = 256
"""Side of the blocks that rasters are stored in; rows are written in whole blocks, so that none is packed twice."""

_CHECKPOINT_S = 5.0
_PACKING = {"num_threads": "ALL_CPUS"}  # blocks are packed beside each other, and beside the prediction


@dataclass(frozen=True)
class RasterFile:
    """A raster to write: its path, and everything beside its pixels.

    Attributes:
        path: Where it appears when it is whole.
        bands: Number of uint8 bands.
        nodata: Value of pixels without data.
        tags: Tags of the whole file.
        band_tags: Tags of its first band.
        names: Description of each band.
        colours: Colour table with transparency.
        scale: What a stored step of 1 means.
        cog: Whether it becomes a Cloud Optimized GeoTIFF.
        keep: Whether it appears at all, or only serves what is made from it.
        classes: What its values stand for; see `add_class_table`.
    """

    path: Path
    bands: int
    nodata: int
    tags: Mapping[str, str]
    band_tags: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    colours: Mapping[int, tuple[int, int, int, int]] | None = None
    scale: float | None = None
    cog: bool = False
    keep: bool = True
    classes: tuple[PaletteEntry, ...] = ()

    @property
    def partial(self) -> Path:
        """Where it grows."""
        return partial_file(self.path.parent, self.path.stem)


def partial_file(folder: Path, stem: str) -> Path:
    """Returns the path under which the raster `stem` grows; journal and lock have that name with another suffix."""
    return folder / f".{short_stem(stem)}.partial.tif"


def raster_file(
    product: Product,
    path: Path,
    scene: Scene,
    spec: DatasetSpec,
    palette: tuple[RGB, ...],
    *,
    cog: bool = False,
    keep: bool = True,
    review_value: int | None = None,
    provenance: Mapping[str, str] | None = None,
) -> RasterFile:
    """Describes the raster of one product.

    Labels have the palette as colour table and `spec.ignore_index` as nodata value. GeoTIFF has no place for category
    names outside a side file, which is easily lost, so the class names stand in the band's tags too: `CLASS_NAMES` (a
    JSON list) and `CLASS_0`, `CLASS_1`, … Probabilities are in steps of 1/254, the scale of the bands, and 255 is
    nodata.

    Args:
        product: What the raster holds.
        path: Where it appears.
        scene: The scene, some of whose tags are true of the raster too.
        spec: The dataset, for class names and ignored id.
        palette: Colours of the classes.
        cog: See `RasterFile`.
        keep: See `RasterFile`.
        review_value: Id of doubtful pixels, named and coloured too.
        provenance: Tags about how the raster was made.
    """
    tags = {**scene.tags, "TIFFTAG_SOFTWARE": f"rsseg_tf {__version__}", **(provenance or {})}
    if product != "labels":
        names = tuple(spec.classes) if product == "probabilities" else ("confidence",)
        scale = 1 / PROBABILITY_STEPS
        return RasterFile(path, len(names), PROBABILITY_NODATA, tags, names=names, scale=scale, cog=cog, keep=keep)
    classes = tuple(class_entries(spec, palette, review_value))
    colours = {int(entry.value): (*entry.colour, 255) for entry in classes}
    band_tags = {"CLASS_NAMES": json.dumps(spec.classes, ensure_ascii=False)}
    band_tags |= {f"CLASS_{index}": name for index, name in enumerate(spec.classes)}
    if review_value is not None:
        band_tags["REVIEW_VALUE"] = str(review_value)
    colours[spec.ignore_index] = (0, 0, 0, 0)
    return RasterFile(path, 1, spec.ignore_index, tags, band_tags, colours=colours, cog=cog, keep=keep, classes=classes)


@dataclass(frozen=True)
class Rows:
    """Finished rows of a strip of columns, as the journal counts them."""

    strip: int = 0
    rows: int = 0


@dataclass(frozen=True)
class _Written:
    """What was written at once: its rows and columns, and the checksum of each band."""

    window: tuple[tuple[int, int], tuple[int, int]]
    sums: tuple[int, ...]


class SceneWriter:
    """Writes all rasters of a scene together.

    Args:
        files: The rasters.
        scene: The scene, for size and place.
        strips: First and last-plus-one column of the strips that are written one after the other.
        settings: All that the pixels depend on; compared with the journal's on resume.
        resume: Whether to go on with partial files if there are some.

    Attributes:
        strips: As above.
        finished: Rows that are safe on the disk.

    Raises:
        ConfigError: On resume, when the partial files were made with other settings.
        DataError: When a file cannot be written, or another process is writing it.
    """

    def __init__(
        self,
        files: Mapping[Product, RasterFile],
        scene: Scene,
        strips: tuple[tuple[int, int], ...],
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
    ) -> None:
        self._files, self._scene, self.strips = files, scene, strips
        first = files["labels"]
        self._journal = Journal(first.partial.with_suffix(".json"))
        self._settings = {**settings, "strips": [list(strip) for strip in strips], "products": list(files)}
        self._open: dict[Product, rasterio.io.DatasetWriter] = {}
        self._written: dict[Product, list[_Written]] = {}  # since the rasters were opened
        self._named: dict[str, list[int]] = {}  # rasters that have their names, with their stamps
        lock_file = first.partial.with_suffix(".lock")
        try:
            lock = hold(lock_file)
        except OSError as error:
            raise unwritable(lock_file, error) from error
        if lock is None:
            raise DataError(f"{first.path} is being written by another process. Wait for it, or stop it.")
        self._lock = lock
        try:
            self.finished = self._resumed() if resume else Rows()
        except BaseException:
            self._lock.release()
            raise
        self._journal.begin(self._settings, resume=self.finished != Rows())
        if self.finished == Rows():  # rows of other settings must not shine through
            self._discard()
        self._buffers: dict[Product, NDArray[np.uint8]] = {}
        self._filled = 0  # rows in the buffers
        self._saved_at = time.monotonic()

    def start_strip(self, index: int, most_rows: int) -> int:
        """Begins a strip.

        Args:
            index: Which one.
            most_rows: Most rows that `put` will bring before `end_rows`.

        Returns:
            The rows that are finished already; `put` ignores them.
        """
        left, right = self.strips[index]
        self._strip = index
        self._top = self.finished.rows if index == self.finished.strip else 0
        if index < self.finished.strip:
            self._top = self._scene.size.height
        self._filled = 0
        # Up to BLOCK - 1 rows wait for the rest of their block when the next rows come.
        self._buffers = {
            product: np.empty((file.bands, most_rows + BLOCK - 1, right - left), np.uint8)
            for product, file in self._files.items()
        }
        return self._top

    def put(self, top: int, left: int, planes: Mapping[Product, NDArray[np.uint8]]) -> None:
        """Takes a part of the current rows: `(bands, rows, columns)` per product, placed in the scene."""
        first, last = self.strips[self._strip]
        for product, plane in planes.items():
            rows, columns = plane.shape[1:]
            skipped = max(self._top + self._filled - top, 0)  # rows that an earlier run has finished
            x0, x1 = max(left, first), min(left + columns, last)
            if x0 < x1 and skipped < rows:
                at = max(top, self._top + self._filled) - self._top
                target = self._buffers[product][:, at : at + rows - skipped, x0 - first : x1 - first]
                target[:] = plane[:, skipped:, x0 - left : x1 - left]

    def end_rows(self, bottom: int) -> None:
        """Ends the rows above `bottom`, whose columns were all put; writes the rows that fill blocks."""
        self._filled = max(bottom - self._top, 0)
        last = bottom == self._scene.size.height
        ready = self._filled if last else self._filled // BLOCK * BLOCK
        if ready:
            self._write(ready)
            for buffer in self._buffers.values():  # the rest of the rows moves up
                buffer[:, : self._filled - ready] = buffer[:, ready : self._filled]
            self._top += ready
            self._filled -= ready
        if time.monotonic() - self._saved_at > _CHECKPOINT_S:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Flushes all rows to the disk, then records them in the journal."""
        if not self._open:
            return
        # The order counts: a journal that knew of rows which a power cut took would have them missing in the result.
        self._close()
        try:
            for file in self._files.values():
                _sync(file.partial)
        except OSError as error:
            raise unwritable(self._journal.path, error) from error
        self.finished = Rows(self._strip, self._top)
        self._note()
        self._saved_at = time.monotonic()

    def _note(self) -> None:
        """Writes to the journal how far the rasters are."""
        try:
            self._journal.append({"finished": asdict(self.finished), "named": self._named})
        except OSError as error:
            raise unwritable(self._journal.path, error) from error

    def end_scene(self) -> None:
        """Ends the last rows; from here on the partial files are whole and can be read."""
        if self.finished == Rows():
            self._close()  # a small scene is not worth resuming
        else:
            self.checkpoint()

    def finish(self) -> dict[Product, DataError]:
        """Gives the rasters that are kept their names.

        Returns:
            The error of each raster that could not get its name; the others have theirs all the same.
        """
        failed: dict[Product, DataError] = {}
        for product, file in self._files.items():
            if not file.keep or product in self._named:
                continue
            try:
                if file.cog:
                    _make_cog(file, categorical=product == "labels")
                else:
                    if file.classes:
                        add_class_table(file.partial, file.classes)
                    replace_file(file.partial, file.path)
            except Exception as error:  # GDAL has errors of its own, and none may cost the other rasters
                failed[product] = unwritable(file.path, error)
                continue
            self._named[product] = stamp(file.path)
            if self.finished != Rows():
                with contextlib.suppress(DataError):  # a later run then only makes this raster again
                    self._note()
        return failed

    def readable(self, product: Product) -> Path:
        """Returns the path under which a raster can be read once the scene has ended."""
        file = self._files[product]
        return file.path if product in self._named else file.partial

    def end(self, *, keep: bool) -> None:
        """Removes the partial files, which only served to make the results, and gives the lock back.

        Args:
            keep: Whether a later run needs the partial files for a missing result; without a journal they go anyway.
        """
        try:
            if not keep or self.finished == Rows():
                self._discard()
        except OSError as error:
            raise unwritable(self._journal.path, error) from error
        finally:
            self._lock.release()

    def abandon(self, *, save: bool) -> None:
        """Ends after a failure: rows that the journal records stay for a later run, anything else goes.

        Args:
            save: Whether to save the finished rows first.
        """
        try:
            with contextlib.suppress(DataError):  # the caller raises the first failure, which explains this one
                if save:
                    self.checkpoint()
                self._close()
            with contextlib.suppress(OSError):
                if self.finished == Rows():
                    self._discard()
        finally:
            self._open.clear()
            self._lock.release()

    def _discard(self) -> None:
        self._journal.path.unlink(missing_ok=True)
        for file in self._files.values():
            remove_file(file.partial)

    def _resumed(self) -> Rows:
        """Reads how far an earlier run came."""
        journal = self._journal
        if not journal.path.is_file():
            return Rows()
        journal.recall()
        if journal.settings is None:
            raise DataError(f"{journal.path} is damaged: it has no settings. Remove it, and predict without --resume.")
        if difference := journal.difference(self._settings):
            raise ConfigError(
                f"{self._files['labels'].path} was begun with another {difference.name}: {difference.earlier}, now "
                f"{difference.now}. Use the same options to resume, or leave --resume out to begin anew."
            )
        last = next((entry for entry in reversed(journal.entries) if entry.keys() >= {"finished", "named"}), None)
        if last is None:
            return Rows()
        # A finished raster counts while it is the one that the earlier run wrote; the others must be open to more rows.
        stamps: dict[str, list[int]] = {product: stamp(file.path) for product, file in self._files.items()}
        named = {product: was for product, was in last["named"].items() if was and stamps.get(product) == was}
        if not all(product in named or _opens(file, self._scene) for product, file in self._files.items()):
            return Rows()
        self._named = named
        return Rows(last["finished"]["strip"], last["finished"]["rows"])

    def _write(self, rows: int) -> None:
        left, right = self.strips[self._strip]
        window = ((self._top, self._top + rows), (left, right))
        for product, file in self._files.items():
            try:
                if product not in self._open:
                    self._open[product] = _open_partial(file, self._scene)
                self._open[product].write(self._buffers[product][:, :rows], window=window)
                sums = tuple(zlib.crc32(np.ascontiguousarray(band[:rows]).data) for band in self._buffers[product])
                self._written.setdefault(product, []).append(_Written(window, sums))
            except (RasterioError, OSError) as error:
                raise unwritable(file.path, error) from error

    def _close(self) -> None:
        """Closes the rasters and checks that all that was written is in them: GDAL raises nothing if it is not."""
        failed: DataError | None = None
        for product in list(self._open):
            file = self._files[product]
            try:
                self._open.pop(product).close()
                _check_written(file.partial, self._written.pop(product, []))
            except Exception as error:  # GDAL has errors of its own
                failed = failed or unwritable(file.path, error)
        if failed is not None:
            raise failed


def _open_partial(file: RasterFile, scene: Scene) -> rasterio.io.DatasetWriter:
    """Opens a growing raster, or makes it with all its metadata."""
    if file.partial.exists():
        return rasterio.open(file.partial, "r+", **_PACKING)
    height, width = scene.size
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": file.bands,
        "dtype": "uint8",
        "nodata": file.nodata,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        **_PACKING,
        "interleave": "band",  # one band is packed and read without the others
        "BIGTIFF": "IF_SAFER",  # the compressed size is unknown, and a plain TIFF ends at 4 GiB
    }
    if not scene.gcps:  # a GeoTIFF holds control points or a transform, not both
        profile |= {"crs": scene.crs, "transform": scene.transform}
    target = rasterio.open(file.partial, "w", **profile)
    if scene.gcps:
        target.gcps = (list(scene.gcps), scene.gcps_crs or CRS())  # tie points may come without a CRS
    if scene.rpcs is not None:
        target.rpcs = scene.rpcs
    target.update_tags(**file.tags)
    target.update_tags(1, **file.band_tags)
    for index, name in enumerate(file.names, 1):
        target.set_band_description(index, name)
    if file.scale is not None:
        target.scales = (file.scale,) * file.bands
    if file.colours is not None:
        target.write_colormap(1, dict(file.colours))  # before the pixels, or the header is already written
    dated = None if scene.gcps else scene.dated_crs
    if dated is None:
        return target
    # Rasterio cannot write the epoch of a CRS; GDAL reads it from the side file, whose other content stays.
    target.close()
    side = file.partial.with_name(file.partial.name + SIDE_SUFFIX)
    text = side.read_text("utf-8") if side.is_file() else "<PAMDataset></PAMDataset>\n"
    text = re.sub(r"\s*<SRS.*</SRS>", "", text, flags=re.DOTALL)
    side.write_text(text.replace("<PAMDataset>", f"<PAMDataset>{dated}", 1), "utf-8")
    return rasterio.open(file.partial, "r+", **_PACKING)


def _opens(file: RasterFile, scene: Scene) -> bool:
    """Tells whether a growing raster of an earlier run is readable and has the expected shape."""
    try:
        with rasterio.open(file.partial) as source:
            return bool(source.shape == scene.size and source.count == file.bands)
    except (RasterioError, OSError):
        return False


def _check_written(path: Path, written: Iterable[_Written]) -> None:
    """Raises `OSError` unless a file holds what was written to it.

    GDAL packs blocks in threads, and raises no error if one of them then finds no room; nor does it if there is none
    for the index, which it writes when it closes a file. Rows after a failed block may be sound, above all in a file
    that is resumed, whose blocks are replaced where they lie. Reading all back takes a twentieth of the time to write.
    """
    try:
        with rasterio.open(path) as source:
            same = all(
                zlib.crc32(source.read(band, window=part.window)) == expected
                for part in written
                for band, expected in enumerate(part.sums, 1)
            )
    except (RasterioError, OSError) as error:
        raise OSError(f"what was written is not on the disk, probably for want of space ({reason(error)})") from error
    if not same:
        raise OSError("what was written is not on the disk, probably for want of space")


def _rows_of(source: rasterio.DatasetReader) -> Iterator[_Written]:
    """Yields what a raster holds, a row of blocks at a time."""
    for top in range(0, source.height, BLOCK):
        window = ((top, min(top + BLOCK, source.height)), (0, source.width))
        yield _Written(window, tuple(zlib.crc32(source.read(band, window=window)) for band in source.indexes))


def _sync(path: Path) -> None:
    """Flushes a raster to the disk, and its side file if it has one."""
    side = path.with_name(path.name + SIDE_SUFFIX)
    for written in (path, side) if side.is_file() else (path,):
        with written.open("rb") as handle:
            os.fsync(handle.fileno())


def _make_cog(file: RasterFile, *, categorical: bool) -> None:
    """Turns the partial file into a Cloud Optimized GeoTIFF under the final name."""
    with atomic_path(file.path) as temporary:
        rasterio.shutil.copy(
            file.partial,
            temporary,
            driver="COG",
            compress="deflate",
            BIGTIFF="IF_SAFER",
            overview_resampling="mode" if categorical else "average",  # a mean of class ids would be another class
            num_threads="ALL_CPUS",
        )
        with rasterio.open(file.partial) as source:
            _check_written(temporary, _rows_of(source))
        if file.classes:
            add_class_table(temporary, file.classes, whole=False)
    remove_file(file.partial)


def unwritable(path: Path, error: Exception) -> DataError:
    """Returns the error about a result that cannot be written."""
    return DataError(f"cannot write {path}: {reason(error)}. Check the folder and the free space.")
