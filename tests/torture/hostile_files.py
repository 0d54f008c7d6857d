"""Every reader of files, fed with changed files in a process of its own.

    python -m tests.torture.hostile_files READER SEED FIRST LAST

reads the changed files of these numbers and prints a line of JSON for each; `run` watches such processes. A reader may
give a result or an `RssegError`, within seconds and without taking much memory. Anything else is a failure: another
exception, a crash, a hang, a message of several lines.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.torture.figures import Figure
from tests.torture.mutations import mutated

__all__ = ["READERS", "run"]

ALL = 3000
"""Changed files of each reader where nobody says how many."""
_LONGEST_S = 20.0  # of one file, on a busy machine
_START_S = 180.0
_MOST_MEMORY = 1200 * 2**20  # beyond what the process had before
_SHOWN = 5


@dataclass(frozen=True)
class Reader:
    """A way to read files.

    Attributes:
        make: writes sound files into a folder and returns those that are changed, one of them at a time.
        read: reads what is in the folder.
        share: of the files that others get; for readers that take long.
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], object]
    share: float = 1.0


# === Images ===


def _pixels(bands: int = 3, side: int = 24) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (side, side, bands), np.uint8)


def _image(name: str, *options: int) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        import cv2

        path = folder / name
        path.write_bytes(cv2.imencode(path.suffix, _pixels(), list(options))[1].tobytes())
        return [path]

    return make


def _label(folder: Path) -> list[Path]:
    from rsseg_tf.rasters.images import write_png

    write_png(folder / "label.png", _pixels(1)[..., 0] % 4, [(0, 0, 0), (9, 9, 9), (99, 9, 9), (255, 255, 0)])
    return [folder / "label.png"]


def _tiff(**options: Any) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        import rasterio

        place = {"crs": "EPSG:32636", "transform": rasterio.Affine(0.5, 0, 4e5, 0, -0.5, 3e6)}
        with rasterio.open(
            folder / "x.tif", "w", driver="GTiff", width=24, height=24, count=3, dtype="uint8", **place, **options
        ) as file:
            file.write(np.moveaxis(_pixels(), -1, 0))
        return [folder / "x.tif"]

    return make


def _vrt(folder: Path) -> list[Path]:
    _tiff()(folder)
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename relativeToVRT="1">x.tif'
        f'</SourceFilename><SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" xSize="24" ySize="24"/>'
        '<DstRect xOff="0" yOff="0" xSize="24" ySize="24"/></SimpleSource></VRTRasterBand>'
        for band in (1, 2, 3)
    )
    (folder / "x.vrt").write_text(f'<VRTDataset rasterXSize="24" rasterYSize="24">{bands}</VRTDataset>', "utf-8")
    return [folder / "x.vrt", folder / "x.tif"]


def _jpeg_2000(folder: Path) -> list[Path]:
    import rasterio

    options = {"QUALITY": "100", "REVERSIBLE": "YES"}
    with rasterio.open(
        folder / "x.jp2", "w", driver="JP2OpenJPEG", width=24, height=24, count=3, dtype="uint8", **options
    ) as file:
        file.write(np.moveaxis(_pixels(), -1, 0))
    return [folder / "x.jp2"]


def _hdf5(folder: Path) -> list[Path]:
    import h5py

    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("group/image", data=np.moveaxis(_pixels(), -1, 0), chunks=(1, 8, 8), compression="gzip")
    return [folder / "x.h5"]


def _read_image(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from rsseg_tf.rasters.images import image_header, read_image, read_label
        from rsseg_tf.rasters.scenes import open_scene

        def scene(path: Path) -> object:
            with open_scene(path) as opened:
                return opened.read()

        readers: tuple[Callable[[Path], object], ...] = (scene,)
        if not name.endswith((".vrt", ".jp2", ".h5")):
            readers = (image_header, read_image, scene, *((read_label,) if name.startswith("label") else ()))
        return _each(readers, folder / name)

    return read


def _each(readers: tuple[Callable[[Path], object], ...], path: Path) -> object:
    """Calls all of several readers, whatever the first ones say; tells of one of their errors."""
    from rsseg_tf.errors import RssegError

    told: RssegError | None = None
    for reader in readers:
        try:
            reader(path)
        except RssegError as error:
            told = error
            _one_line(error)
    if told is not None:
        raise told
    return None


def _placed(folder: Path) -> list[Path]:
    _image("x.jpg")(folder)
    (folder / "x.jgw").write_text("0.5\n0\n0\n-0.5\n400000.25\n2999999.75\n", "ascii")
    import rasterio

    (folder / "x.prj").write_text(rasterio.CRS.from_epsg(32636).to_wkt(), "utf-8")
    (folder / "x.jpg.aux.xml").write_text("<PAMDataset><SRS>EPSG:32636</SRS></PAMDataset>", "utf-8")
    return [folder / "x.jgw", folder / "x.prj", folder / "x.jpg.aux.xml"]


# === Archives, weights, checkpoints ===


def _archive(folder: Path) -> list[Path]:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b/y.txt", b"y" * 500)
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.txt", bytes(range(256)) * 4)
        archive.writestr("inner.zip", inner.getvalue())
        archive.writestr("lzma.txt", b"z" * 500, zipfile.ZIP_LZMA)
        archive.writestr("stored.zip", inner.getvalue(), zipfile.ZIP_STORED)
    return [folder / "a.zip"]


def _read_archive(folder: Path) -> object:
    from rsseg_tf.files.archives import close_archives, list_members, local_copy

    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    try:
        contents = []
        for member in list_members([folder / "a.zip"], scratch):
            with local_copy(member, scratch) as path:
                contents.append(path.read_bytes())
        return contents
    finally:
        close_archives()
        shutil.rmtree(scratch)


def _weights(kind: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        from tests.fixtures.weight_files import (
            write_legacy_torch,
            write_pdparams,
            write_safetensors,
            write_torch,
        )

        tensors = {
            "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
            "fc.weight": np.eye(3, dtype="f4"),
        }
        writers: dict[str, Callable[..., Path]] = {
            "pdparams": write_pdparams,
            "pth": write_torch,
            "legacy": write_legacy_torch,
            "safetensors": write_safetensors,
        }
        path = folder / "w"
        if kind == "tar":
            inner = write_pdparams(folder / "x.pdparams", tensors)
            with tarfile.open(path, "w:gz") as archive:
                archive.add(inner, "model/x.pdparams")
        elif kind == "protocol 0":
            path.write_bytes(pickle.dumps({"a": [1, 2.5, "x", (None, True)], "w": tensors["fc.weight"]}, 0))
        else:
            writers[kind](path, tensors)
        return [path]

    return make


def _read_weights(folder: Path) -> object:
    from rsseg_tf.weights.tensors import read_tensors

    return read_tensors(folder / "w")


def _checkpoint(folder: Path) -> list[Path]:
    arrays: dict[str, Any] = {"conv/kernel": np.eye(4, dtype=np.float32), "step": np.array(3)}
    np.savez(folder / "model.weights.npz", **arrays)
    np.savez_compressed(
        folder / "reference.npz", pixels=np.zeros((2, 8, 8, 3)), logits=np.zeros((2, 8, 8, 3)), made_up=2
    )
    state = {"step": 3, "samples_seen": 9, "best_miou": 0.5}
    (folder / "state.json").write_text(json.dumps(state), "utf-8")
    return [folder / "model.weights.npz", folder / "reference.npz", folder / "state.json"]


def _read_checkpoint(folder: Path) -> object:
    from rsseg_tf.checkpoint import _read_arrays, read_state
    from rsseg_tf.export.tiles import read_reference

    readers = (lambda path: _read_arrays(path, "model.weights.npz"), read_state, read_reference)
    return _each(readers, folder)


# === Text ===


def _text(name: str, text: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        (folder / name).write_text(text, "utf-8")
        return [folder / name]

    return make


CONFIG = """\
base: _base_/dubai.yml
model: {name: fcn, backbone: {name: hrnet_w18}}
augment: &a
  crop_size: [64, 64]
  flip_horizontal: 0.5
train: {iters: 20, batch_size: 2, seed: 1}
loss: {main: {name: cross_entropy}}
"""
PADDLESEG = """\
batch_size: 4
iters: 100
train_dataset:
  type: Dataset
  dataset_root: data
  train_path: data/train.txt
  num_classes: 6
  mode: train
  transforms:
    - {type: ResizeStepScaling, min_scale_factor: 0.5, max_scale_factor: 2.0, scale_step_size: 0.25}
    - {type: RandomPaddingCrop, crop_size: [512, 512]}
    - type: Normalize
optimizer: {type: sgd, momentum: 0.9, weight_decay: 4.0e-5}
lr_scheduler: {type: PolynomialDecay, learning_rate: 0.01, end_lr: 0, power: 0.9}
loss: {types: [{type: CrossEntropyLoss}], coef: [1]}
model: {type: FCN, backbone: {type: HRNet_W18}, num_classes: 6}
"""


def _read_config(folder: Path) -> object:
    from rsseg_tf.config import load_config

    return load_config(folder / "c.yml")


def _read_paddleseg(folder: Path) -> object:
    from rsseg_tf.config.paddleseg import import_paddleseg

    return import_paddleseg(folder / "c.yml")


def _list(folder: Path) -> list[Path]:
    _image("a.png")(folder)
    _image("b.png")(folder)
    (folder / "list.txt").write_text('# tiles\na.png b.png\n"a.png" "b.png"\na.png\tb.png\n', "utf-8")
    return [folder / "list.txt"]


def _read_list(folder: Path) -> object:
    from rsseg_tf.files.lists import list_lines, read_list

    def samples(path: Path) -> object:
        return list(read_list(path, folder))

    return _each((samples, lambda path: list(list_lines(path))), folder / "list.txt")


def _dataset(folder: Path) -> list[Path]:
    import rsseg_tf
    from rsseg_tf.datasets.spec import custom_spec
    from rsseg_tf.prepare import output

    spec = custom_spec("tiny", ["a", "b"])
    content = {"written_by": output._WRITER, "version": rsseg_tf.__version__, **vars(spec), "groups": {"x": 1}}
    (folder / "dataset.json").write_text(json.dumps(content, default=list), "utf-8")
    return [folder / "dataset.json"]


def _read_dataset(folder: Path) -> object:
    from rsseg_tf.prepare.output import check_replaceable, read_dataset_json

    return _each((lambda path: read_dataset_json(path / "dataset.json"), check_replaceable), folder)


def _manifest(folder: Path) -> list[Path]:
    from tests.fixtures.models import manifest

    (folder / "manifest.json").write_text(manifest().to_json(), "utf-8")
    return [folder / "manifest.json"]


def _read_manifest(folder: Path) -> object:
    from rsseg_tf.manifest import read_manifest

    return read_manifest(folder).spec


def _journals(folder: Path) -> list[Path]:
    lines = [{"settings": {"a": 1}}, {"name": "x.png", "source": ["x.png", 1, 2], "files": {"labels": "y"}, "note": ""}]
    (folder / "finished.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    return [folder / "finished.jsonl"]


def _read_journals(folder: Path) -> object:
    from types import SimpleNamespace

    from rsseg_tf.predict import resuming

    journal = folder / resuming.JOURNAL
    shutil.copyfile(folder / "finished.jsonl", journal)
    scenes = SimpleNamespace(resume=True)
    settings: Any = SimpleNamespace(save_dir=folder, scenes=scenes, identity=lambda: {"a": 1})
    job: Any = SimpleNamespace(name="x.png", path=folder / "x.png")
    (folder / "x.png").write_bytes(b"x")
    return resuming.FinishedJobs(settings, [job]).result(job)


# === Areas of interest ===


def _area(suffix: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        import pyogrio
        import shapely
        from rasterio.warp import transform_geom

        _tiff()(folder)
        boxes = [shapely.box(400_001, 2_999_990, 400_006, 2_999_999), shapely.Point(400_005, 2_999_995).buffer(3)]
        crs = "EPSG:4326" if suffix in (".kml", ".geojson") else "EPSG:32636"
        shapes = [shapely.geometry.shape(transform_geom("EPSG:32636", crs, one.__geo_interface__)) for one in boxes]
        drivers = {".kml": "KML", ".gpkg": "GPKG", ".geojson": "GeoJSON", ".shp": "ESRI Shapefile"}
        pyogrio.raw.write(
            folder / f"aoi{suffix}", np.array([one.wkb for one in shapes], object), [np.array(["a", "b"], object)],
            ["name"], driver=drivers.get(suffix, "FlatGeobuf"), geometry_type="Polygon", crs=crs,
        )  # fmt: skip
        return sorted(path for path in folder.glob("aoi.*") if path.suffix != ".cpg")

    return make


def _read_area(suffix: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from rsseg_tf.rasters.area import area_of_interest
        from rsseg_tf.rasters.scenes import open_scene
        from rsseg_tf.rasters.windows import Window

        with open_scene(folder / "x.tif") as scene:
            wanted = area_of_interest(folder / f"aoi{suffix}", scene)
            return None if wanted is None else wanted(Window(0, 0, 24, 24))

    return read


# === Exported models ===


def _onnx(folder: Path) -> list[Path]:
    import onnx

    from rsseg_tf.manifest import MANIFEST_PROPERTY
    from tests.fixtures.models import manifest

    values = [onnx.helper.make_tensor_value_info(name, 1, [1, 4, 4, 3]) for name in ("pixels", "logits")]
    weights = onnx.numpy_helper.from_array(np.ones((3,), np.float32), "w")
    node = onnx.helper.make_node("Mul", ["pixels", "w"], ["logits"])
    graph = onnx.helper.make_graph([node], "graph", values[:1], values[1:], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    model.ir_version = 8
    model.metadata_props.add(key=MANIFEST_PROPERTY, value=manifest().to_json())
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return [folder / "m.onnx"]


def _read_onnx(folder: Path) -> object:
    from rsseg_tf.predictors import load_onnx

    return load_onnx(folder / "m.onnx", threads=1)


def _tflite(folder: Path) -> list[Path]:
    import tensorflow as tf

    from rsseg_tf.manifest import MANIFEST_FILE, Tensor
    from tests.fixtures.models import manifest

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 3), tf.float32, name="pixels")])
    def logits(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": tf.nn.relu(pixels * 2.0)}

    tf.saved_model.save(tf.Module(), str(folder / "saved"), signatures={"serving_default": logits})
    content = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved")).convert()
    shutil.rmtree(folder / "saved")
    (folder / "m.tflite").write_bytes(content)
    known = manifest()
    output = Tensor(name="logits", dtype="float32", shape=(1, 8, 8, 3), meaning="logits")
    artifact = known.artifacts[0].model_copy(update={"format": "tflite", "path": "m.tflite", "outputs": (output,)})
    with zipfile.ZipFile(folder / "m.tflite", "a") as archive:
        archive.writestr(MANIFEST_FILE, known.model_copy(update={"artifacts": (artifact,)}).to_json())
    return [folder / "m.tflite"]


def _read_tflite(folder: Path) -> object:
    from rsseg_tf.predictors import load_tflite

    return load_tflite(folder / "m.tflite", threads=1)


def _savedmodel(folder: Path) -> list[Path]:
    from tests.fixtures.models import write_model

    write_model(folder / "1", warm_up=False)
    return [folder / "1" / "saved_model.pb"]


def _read_savedmodel(folder: Path) -> object:
    from rsseg_tf.predictors.operations import check_operations

    return check_operations(folder / "1")


# === Requests ===


def _requests(folder: Path) -> list[Path]:
    import base64

    import tensorflow as tf

    image = _image("x.png")(folder)[0].read_bytes()
    body = {"signature_name": "x", "instances": [{"image_bytes": {"b64": base64.b64encode(image).decode()}}]}
    (folder / "body.json").write_text(json.dumps(body), "utf-8")
    (folder / "rows.json").write_text(json.dumps({"instances": _pixels(side=4)[None].tolist()}), "utf-8")
    (folder / "tensor.pb").write_bytes(tf.make_tensor_proto(_pixels(side=4)[None]).SerializeToString())
    return [folder / "body.json", folder / "rows.json", folder / "tensor.pb"]


def _read_requests(folder: Path) -> object:
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    from rsseg_tf.serving.limits import Limits
    from rsseg_tf.serving.tensors import check_inputs, from_json, from_proto

    limits = Limits(max_pixels=10_000, max_images=8)

    def info(dtype: Any, *sizes: int) -> Any:
        shape = tf.TensorShape([None if size < 0 else size for size in sizes]).as_proto()
        return (
            tf.compat.v1.MetaGraphDef()
            .signature_def["x"]
            .inputs["x"]
            .__class__(dtype=dtype.as_datatype_enum, tensor_shape=shape)
        )

    inputs = {"rows.json": {"pixels": info(tf.uint8, -1, -1, -1, 3)}, "body.json": {"image_bytes": info(tf.string, -1)}}

    def json_request(name: str) -> Callable[[Path], object]:
        def read(path: Path) -> object:
            arrays = from_json((path / name).read_bytes(), limits).arrays(inputs[name])
            definition = tf.compat.v1.saved_model.signature_def_utils.build_signature_def(inputs=inputs[name])
            return check_inputs(arrays, definition, limits)

        return read

    def tensor(path: Path) -> object:
        from tensorflow.core.framework.tensor_pb2 import TensorProto

        try:
            proto = TensorProto.FromString((path / "tensor.pb").read_bytes())
        except DecodeError:  # which the server tells as INVALID_ARGUMENT
            return None
        return from_proto("pixels", proto)

    return _each((json_request("rows.json"), json_request("body.json"), tensor), folder)


def _encoded(folder: Path) -> list[Path]:
    import cv2

    from tests.fixtures.gifs import gif

    paths = []
    for suffix in (".png", ".jpg", ".bmp"):
        paths += _image(f"e{suffix}")(folder)
    (folder / "e.gif").write_bytes(gif((24, 24), [(24, 24), (9, 9)], comments=1))
    paths.append(folder / "e.gif")
    (folder / "p.jpg").write_bytes(cv2.imencode(".jpg", _pixels(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes())
    return [*paths, folder / "p.jpg"]


def _read_encoded(folder: Path) -> object:
    """What the check of the header lets pass must be what the decoder in the graph makes: no more pixels."""
    import tensorflow as tf

    from rsseg_tf.errors import DataError
    from rsseg_tf.rasters.headers import encoded_size

    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        try:
            size = encoded_size(data)
        except DataError as error:
            _one_line(error)
            continue
        if size.pixels > 1_000_000:
            continue
        with contextlib.suppress(tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            found = tf.io.decode_image(data, expand_animations=False).shape
            if found[0] > size.height or found[1] > size.width:  # of a GIF that is cut off only the first frames count
                raise AssertionError(f"{path.name} was decoded to {found}, and its header gives {size}")
    return None


READERS: dict[str, Reader] = {
    "PNG": Reader(_image("x.png"), _read_image("x.png")),
    "JPEG": Reader(_image("x.jpg"), _read_image("x.jpg")),
    "label PNG": Reader(_label, _read_image("label.png")),
    "TIFF": Reader(_tiff(), _read_image("x.tif")),
    "TIFF, compressed tiles": Reader(
        _tiff(tiled=True, blockxsize=16, blockysize=16, compress="deflate", predictor=2), _read_image("x.tif")
    ),
    "TIFF, LZW": Reader(_tiff(compress="lzw"), _read_image("x.tif")),
    "VRT": Reader(_vrt, _read_image("x.vrt")),
    "JPEG 2000": Reader(_jpeg_2000, _read_image("x.jp2")),
    "HDF5": Reader(_hdf5, _read_image("x.h5")),
    "world file, .prj, .aux.xml": Reader(_placed, _read_image("x.jpg")),
    "zip archives": Reader(_archive, _read_archive),
    ".pdparams": Reader(_weights("pdparams"), _read_weights),
    ".pth": Reader(_weights("pth"), _read_weights),
    ".pth before torch 1.6": Reader(_weights("legacy"), _read_weights),
    ".safetensors": Reader(_weights("safetensors"), _read_weights),
    "pickle, protocol 0": Reader(_weights("protocol 0"), _read_weights),
    "weights in tar.gz": Reader(_weights("tar"), _read_weights),
    "checkpoint": Reader(_checkpoint, _read_checkpoint),
    "config": Reader(_text("c.yml", CONFIG), _read_config, 0.5),
    "config of PaddleSeg": Reader(_text("c.yml", PADDLESEG), _read_paddleseg, 0.5),
    "list": Reader(_list, _read_list),
    "dataset.json": Reader(_dataset, _read_dataset),
    "manifest": Reader(_manifest, _read_manifest),
    "journal of predict": Reader(_journals, _read_journals),
    "area, GeoPackage": Reader(_area(".gpkg"), _read_area(".gpkg"), 0.5),
    "area, GeoJSON": Reader(_area(".geojson"), _read_area(".geojson")),
    "area, KML": Reader(_area(".kml"), _read_area(".kml")),
    "area, shapefile": Reader(_area(".shp"), _read_area(".shp")),
    "area, FlatGeobuf": Reader(_area(".fgb"), _read_area(".fgb")),
    "ONNX": Reader(_onnx, _read_onnx, 0.5),
    "TFLite": Reader(_tflite, _read_tflite, 0.5),
    "SavedModel's operations": Reader(_savedmodel, _read_savedmodel, 0.5),
    "requests": Reader(_requests, _read_requests),
    "encoded images of requests": Reader(_encoded, _read_encoded),
}


# === The process that reads ===


def _one_line(error: Exception) -> None:
    lines = str(error).strip().splitlines()
    if len(lines) != 1 and type(error).__name__ != "ConfigError":  # which has a line for each problem
        raise AssertionError(f"a message of {len(lines)} lines: {lines[:2]}") from error


def _read_many(name: str, seed: int, first: int, last: int) -> None:
    """Reads files and prints how it went."""
    from rsseg_tf.errors import RssegError

    reader = READERS[name]
    with tempfile.TemporaryDirectory(prefix="hostile-") as temporary:
        origin, place = Path(temporary) / "sound", Path(temporary) / "x"
        origin.mkdir()
        paths = [path.relative_to(origin) for path in reader.make(origin)]
        sound = {path: (origin / path).read_bytes() for path in paths}
        shutil.copytree(origin, place)
        reader.read(place)  # what was not changed must be read, and libraries be loaded
        base = _memory()
        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + 2 * _MOST_MEMORY, resource.RLIM_INFINITY))
        print(json.dumps({"begins": True}), flush=True)
        for item in range(first, last):
            rng = random.Random(f"{seed}/{name}/{item}")
            shutil.rmtree(place)
            shutil.copytree(origin, place)
            path = rng.choice(paths)
            other = sound[rng.choice(paths)] if len(paths) > 1 and rng.random() < 0.5 else rng.randbytes(200)
            (place / path).write_bytes(mutated(sound[path], other, rng))
            why = ""
            began = time.monotonic()
            try:
                reader.read(place)
            except RssegError as error:
                try:
                    _one_line(error)
                except AssertionError as wrong:
                    why = str(wrong)
            except BaseException as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                why = f"{type(error).__name__}: {str(error)[:150]} ({Path(where.filename).name}:{where.lineno})"
            taken = time.monotonic() - began
            if not why and _memory() - base > _MOST_MEMORY:
                why = f"took {(_memory() - base) >> 20} MiB"
                base = _memory()
            print(json.dumps({"item": item, "why": why, "s": round(taken, 2)}), flush=True)


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# === The process that watches ===


def run(seed: int, limit: int | None = None) -> list[Figure]:
    """Lets every reader read changed files; see `tests.torture.figures`."""
    return [run_reader(name, seed, ALL if limit is None else limit) for name in READERS]


def run_reader(name: str, seed: int, limit: int) -> Figure:
    """Lets one reader read changed files."""
    count = max(1, round(READERS[name].share * limit))
    failures: list[str] = []
    item = 0
    while item < count and len(failures) <= 20:
        for number, why in _watched(name, seed, item, count):
            item = number + 1
            if why:
                failures.append(f"file {number} of seed {seed}: {why}")
    note = f"{len(failures)} failed: {'; '.join(failures[:_SHOWN])}" if failures else ""
    return Figure(f"read a changed file: {name}", item, item - len(failures), note)


def _watched(name: str, seed: int, first: int, last: int) -> Iterator[tuple[int, str]]:
    """Yields number and failure of each file, until all are read, or the process that reads is lost."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.torture.hostile_files",
        name,
        *map(str, (seed, first, last)),
    ]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, env=environment, cwd=Path(__file__).parents[2]
        )
        assert process.stdout is not None
        item, patience, has_begun = first, _START_S, False
        try:
            while item < last:
                line = _line(process.stdout, patience)
                patience = _LONGEST_S
                told = json.loads(line) if line else {}
                if told.get("begins"):
                    has_begun = True
                    continue
                if "item" not in told:
                    is_hung = process.poll() is None and line is None
                    process.kill()
                    said.seek(0)
                    lines = said.read().decode(errors="replace").strip().splitlines()
                    if not has_begun:
                        raise RuntimeError(f"{name}: the sound files are not read: {lines[-1:]}")
                    end = "took too long" if is_hung else f"the process ended with {process.wait()}"
                    yield item, f"{end} ({lines[-1][:200] if lines else 'nothing said'})"
                    return
                item = told["item"] + 1
                yield told["item"], told["why"]
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _line(stream: Any, seconds: float) -> bytes | None:
    """Returns the next line of a process; None where none comes in time, and nothing at its end."""
    ready, _, _ = select.select([stream], [], [], seconds)
    line: bytes | None = stream.readline() if ready else None
    return line


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    _read_many(sys.argv[1], *map(int, sys.argv[2:5]))
