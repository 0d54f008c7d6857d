"""Own scenes as a whole: the command, its errors, processes, kills, memory, and the checks of what it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

from rsseg_tf.cli import main
from rsseg_tf.config import load_config
from rsseg_tf.prepare.scenes import parts, run
from tests.fixtures.own_scenes import CRS, PLACE, houses, mosaic, prepare, scene, square, tiles, write_polygons
from tests.fixtures.scenes import noise, write_scene


@pytest.fixture
def ortho(tmp_path: Path) -> Path:
    return scene(tmp_path / "ortho.tif")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_polygons(tmp_path / "a.gpkg", houses(60), kind=["a", "b", "c"] * 20)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(*arguments: str | Path | int) -> Any:
    return CliRunner().invoke(main, ["prepare", "scenes", *map(str, arguments)])


def test_the_command_writes_what_training_needs(tmp_path: Path, ortho: Path, labels: Path) -> None:
    result = command(ortho, "--labels", labels, "--field", "kind", "-o", tmp_path / "mine", "--tile_size", 48,
                     "--workers", 1)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert f"rsseg-tf train --config {tmp_path / 'mine/mine.yml'} --do_eval" in result.stdout.replace("\n", "")
    spec = load_config(tmp_path / "mine/mine.yml").dataset.spec
    assert (
        spec.classes == ("background", "a", "b", "c") and spec.bands == 3 and spec.gsd == pytest.approx(0.5, rel=0.01)
    )
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        ".prepared", "ann_dir", "dataset.json", "img_dir", "labels.txt", "mine.yml", "train.txt", "val.txt",
    }  # fmt: skip
    checked = CliRunner().invoke(main, ["check-data", str(tmp_path / "mine"), "--json", "--workers", "1"])
    findings = json.loads(checked.stdout)["findings"]
    assert checked.exit_code == 0 and not [one for one in findings if one["level"] == "error"]
    assert not [one for one in findings if "leak" in one["code"] or "overlap" in one["code"]]
    written = (tmp_path / "mine/dataset.json").stat().st_mtime_ns
    again = command(ortho, "--labels", labels, "--field", "kind", "-o", tmp_path / "mine", "--tile_size", 48)
    assert again.exit_code == 0 and (tmp_path / "mine/dataset.json").stat().st_mtime_ns == written


def test_a_config_that_a_user_changed_is_kept(tmp_path: Path, ortho: Path, labels: Path) -> None:
    prepare(ortho, labels, tmp_path / "mine", field="kind")
    config = tmp_path / "mine/mine.yml"
    config.write_text(config.read_text("utf-8") + "# mine\n", "utf-8")
    prepare(ortho, labels, tmp_path / "mine", field="kind", seed=5)
    assert config.read_text("utf-8").endswith("# mine\n")


def test_what_a_user_may_not_have_meant_is_told(tmp_path: Path, ortho: Path) -> None:
    kinds = ["building", "bulding", "road", "Road", None, "track a", "track b", "car", "cars", "tree", "trees", "roof"]
    labels = write_polygons(tmp_path / "a.gpkg", houses(60), kind=kinds * 5)
    result = command(ortho, "--labels", labels, "--field", "kind", "-o", tmp_path / "mine", "--workers", 1)
    assert result.exit_code == 0, result.output
    told = [line for line in result.stderr.splitlines() if line.startswith("Note: ")]
    assert [line.partition(" are nearly alike")[0] for line in told[:3]] == [
        "Note: The classes 'building' and 'bulding'",
        "Note: The classes 'Road' and 'road'",
        "Note: The classes 'tree' and 'trees'",
    ], result.output
    assert "join them: --classes 'bulding=building' and the others." in told[0]
    assert told[3:] == ["Note: 5 features without a class; their pixels are ignored."]
    shares = result.stdout.splitlines()[-3]
    pixels = json.loads((tmp_path / "mine/dataset.json").read_text("utf-8"))["splits"]["train"]["pixels"]
    assert shares.startswith(f"train: background {100 * pixels['background'] / sum(pixels.values()):.1f} %, ")
    assert "off-palette" not in result.output and shares.endswith(" % of all pixels ignored")
    one = command(ortho, "--labels", labels, "-o", tmp_path / "one", "--workers", 1)
    assert "Note: All polygons are one class, 'object'. --field tells classes apart; --classes NAME" in one.stderr
    named = command(ortho, "--labels", labels, "--classes", "house", "-o", tmp_path / "two", "--workers", 1)
    assert named.exit_code == 0 and "Note: " not in named.output and "ignored" not in named.output


def test_what_a_folder_held_before_is_told(tmp_path: Path, ortho: Path, labels: Path) -> None:
    words = (ortho, "--labels", labels, "--field", "kind", "--workers", 1, "-o")
    made = ["prepare", "synthetic", "--tile-size", "64", "--scenes-train", "1", "--scenes-val", "1", "-o"]
    assert CliRunner().invoke(main, [*made, str(tmp_path / "mine")]).exit_code == 0
    first = command(*words, tmp_path / "mine", "--tile_size", 48)
    assert f"Note: {tmp_path / 'mine'} held the dataset 'synthetic', which this one has replaced." in first.stderr
    again = command(*words, tmp_path / "mine", "--tile_size", 48)
    assert again.exit_code == 0 and again.stderr == ""
    other = command(*words, tmp_path / "mine", "--tile_size", 40)
    assert other.stderr.splitlines() == [
        f"Note: The config {tmp_path / 'mine/mine.yml'} describes these data and stays as it was; delete it to have it "
        "written anew.",
        f"Note: The tiles of {tmp_path / 'mine'} were made anew: tile_size 40, not 48 as before.",
    ]
    back = CliRunner().invoke(main, [*made, str(tmp_path / "mine")])
    assert f"Note: {tmp_path / 'mine'} held the dataset 'mine', which this one has replaced." in back.stderr
    assert CliRunner().invoke(main, [*made, str(tmp_path / "mine")]).stderr == ""
    seeded = CliRunner().invoke(main, [*made, str(tmp_path / "mine"), "--seed", "3"])
    assert f"Note: The tiles of {tmp_path / 'mine'} were made anew: seed 3, not 0 as before.\n" == seeded.stderr


def test_a_mistyped_name_of_a_class_is_told(tmp_path: Path, ortho: Path, labels: Path) -> None:
    named = write_polygons(tmp_path / "b.gpkg", houses(60), kind=["building", "road", "water"] * 20)
    result = command(ortho, "--labels", named, "--field", "kind", "--classes", "building", "rood", "-o", tmp_path / "x")
    assert result.exit_code == 2 and "for all others. 'rood' may be a slip for 'road'.\n" in result.stderr


def test_without_validation_tiles_no_config_is_written(tmp_path: Path, ortho: Path, labels: Path) -> None:
    result = prepare(ortho, labels, tmp_path / "mine", field="kind", split="none")
    assert result.config is None and not (tmp_path / "mine/mine.yml").exists()
    assert "No config is written, because training needs validation tiles" in result.notes[-1]


def test_processes_give_the_same(tmp_path: Path, ortho: Path, labels: Path) -> None:
    calls: list[tuple[int, int]] = []
    prepare(ortho, labels, tmp_path / "a/mine", field="kind")
    prepare(ortho, labels, tmp_path / "b/mine", field="kind", workers=2,
            progress=lambda done, total: calls.append((done, total)))  # fmt: skip
    assert content(tmp_path / "a/mine") == content(tmp_path / "b/mine")
    assert len(calls) > 3 and calls[-1][0] == calls[-1][1]


def test_a_stopped_run_goes_on_where_it_was(
    tmp_path: Path, ortho: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(ortho, labels, tmp_path / "a/mine", field="kind", tile_size=40)
    cut, times = parts.cut_part, 0

    def stopped(*arguments: Any) -> Any:
        nonlocal times
        times += 1
        if times == 6:
            raise KeyboardInterrupt
        return cut(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "cut_part", stopped)
        prepare(ortho, labels, tmp_path / "b/mine", field="kind", tile_size=40)
    assert not (tmp_path / "b/mine").exists()
    calls: list[int] = []
    prepare(ortho, labels, tmp_path / "b/mine", field="kind", tile_size=40, progress=lambda done, _: calls.append(done))
    assert calls[0] > 0 and len(calls) < calls[-1], "finished parts were taken over"
    assert content(tmp_path / "a/mine") == content(tmp_path / "b/mine")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    ortho = scene(tmp_path / "ortho.tif", (500, 600))
    labels = write_polygons(tmp_path / "a.gpkg", houses(100, (500, 600)))
    words = ["prepare", "scenes", str(ortho), "--labels", str(labels), "--tile_size", "32", "--workers", "2", "-o"]
    program = [sys.executable, "-m", "rsseg_tf.cli", *words]
    subprocess.run([*program, str(tmp_path / "a/mine")], check=True, capture_output=True)
    journal = tmp_path / "b/.mine.partial/.work/journal.jsonl"
    with subprocess.Popen([*program, str(tmp_path / "b/mine")], start_new_session=True) as process:
        until = time.monotonic() + 120
        while not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "b/mine").exists()
    subprocess.run([*program, str(tmp_path / "b/mine")], check=True, capture_output=True)
    assert content(tmp_path / "a/mine") == content(tmp_path / "b/mine")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    side, repeats = 1000, 8
    write_scene(tmp_path / "part.tif", noise(side, side), crs=CRS, transform=PLACE, tiled=True)
    sources = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">part.tif</SourceFilename><SourceBand>{{band}}</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="{side}" ySize="{side}"/>'
        f'<DstRect xOff="{x * side}" yOff="{y * side}" xSize="{side}" ySize="{side}"/></SimpleSource>'
        for x in range(repeats) for y in range(repeats)
    )  # fmt: skip
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}">{sources.format(band=band)}</VRTRasterBand>'
        for band in (1, 2, 3)
    )
    place = ", ".join(map(str, (PLACE.c, PLACE.a, 0, PLACE.f, 0, PLACE.e)))
    (tmp_path / "large.vrt").write_text(
        f'<VRTDataset rasterXSize="{side * repeats}" rasterYSize="{side * repeats}"><SRS>{CRS}</SRS>'
        f"<GeoTransform>{place}</GeoTransform>{bands}</VRTDataset>"
    )
    labels = write_polygons(tmp_path / "a.gpkg", houses(3000, (8000, 8000)))
    words = ["prepare", "scenes", tmp_path / "large.vrt", "--labels", labels, "-o", tmp_path / "out", "--workers", "1"]
    # The peak that a parent sees of a child counts what the parent itself held when it started it.
    program = (
        "import sys; from rsseg_tf.cli import main; main(sys.argv[1:], standalone_mode=False);"
        "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    )
    done = subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # The scene alone has 192 MB of pixels, its labels 64 MB; the program without any takes about 150 MB.
    assert int(done.stdout.split()[-1]) < 350 * 1024
    assert len(tiles(tmp_path / "out")) > 180


def test_input_that_does_not_fit_gives_one_line(tmp_path: Path, ortho: Path, labels: Path) -> None:
    nowhere = write_polygons(tmp_path / "nowhere.gpkg", [square(9000, 0, 10)])
    no_crs = write_polygons(tmp_path / "no_crs.shp", [square(0, 0, 10)], None)
    bare = write_scene(tmp_path / "bare.tif", noise(40, 40), crs=None, transform=PLACE)
    (tmp_path / "none.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    (tmp_path / "zero.gpkg").touch()
    (tmp_path / "text.txt").write_text("text")
    small = scene(tmp_path / "small.tif", (300, 300), bands=1)
    many = write_polygons(tmp_path / "many.gpkg", houses(300), id=range(300))
    lossy = scene(tmp_path / "lossy.tif", bands=1, compress="JPEG")
    cases: list[tuple[list[str | Path], str]] = [
        ([ortho, "--labels", nowhere], "do not overlap: the scene covers 500000..500160, 9050580..9050700"),
        ([bare, "--labels", labels], "bare.tif has no CRS, so no label can be placed in it"),
        ([ortho, "--labels", no_crs], "no_crs.shp names no CRS, so its polygons have no place"),
        (
            [ortho, "--labels", labels, "--field", "kin"],
            "has no field 'kin'; its fields are 'kind'. Did you mean 'kind'",
        ),
        ([ortho, "--labels", tmp_path / "none.geojson"], "holds no polygon; the labels must be drawn as polygons"),
        ([ortho, "--labels", tmp_path / "zero.gpkg"], "zero.gpkg is empty"),
        ([labels, "--labels", ortho], "a.gpkg holds polygons where a scene, an image, is expected"),
        ([small, "--labels", ortho], "ortho.tif has 3 bands; labels hold class values in one. If it is the image"),
        ([ortho, "--labels", tmp_path / "text.txt"], "text.txt is neither a file of polygons"),
        ([ortho, "--labels", tmp_path / "nothing.gpkg"], "nothing.gpkg does not exist; a file of labels is expected"),
        ([tmp_path / "nothing.tif", "--labels", labels], "nothing.tif does not exist; a scene is expected"),
        (["--labels", labels], "No scene was given; name at least one image before --labels"),
        ([ortho, small, "--labels", labels], "small.tif has 1 bands of uint8, but"),
        ([ortho, "--labels", labels, "--background", "ignore"], "gives one class alone (object)"),
        ([ortho, "--labels", labels, "--field", "kind", "--classes", "a"], "holds 'b', 'c', which --classes does not"),
        (
            [ortho, "--labels", labels, "--classes", "road", "house"],
            "--classes names road, house, and without --field all polygons are one class. Name the field",
        ),
        ([ortho, "--labels", labels, "--classes", "=a"], "--classes got '=a'; NAME, VALUE=NAME"),
        ([ortho, "--labels", many, "--field", "id"], "gives 301 classes ('background', '0', '1', '2'"),
        ([ortho, "--labels", lossy], "lossy.tif is compressed with losses (JPEG), which change class values"),
        ([ortho, "--labels", labels, "--style", tmp_path / "text.txt"], "text.txt holds no style with a colour"),
    ]
    for words, message in cases:
        result = command(*words, "-o", tmp_path / "out")
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        assert (result.exit_code, len(lines)) == (2, 1), (words, result.output)
        assert message in lines[0] and lines[0].startswith("Error: ")
        assert not (tmp_path / "out").exists() and not (tmp_path / ".out.partial").exists()


def test_a_scene_that_lies_by_control_points_is_refused(tmp_path: Path, labels: Path) -> None:
    path = write_scene(tmp_path / "ortho.tif", noise(40, 40), crs=None, transform=PLACE)
    with rasterio.open(path, "r+") as target:
        points = [
            rasterio.control.GroundControlPoint(y, x, 500000 + x, 9050700 - y) for x, y in ((0, 0), (40, 0), (0, 40))
        ]
        target.gcps = points, rasterio.crs.CRS.from_string(CRS)
    result = command(path, "--labels", labels, "-o", tmp_path / "out")
    assert result.exit_code == 2 and "control points" in result.stderr


def test_a_png_with_a_world_file_is_a_scene(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "ortho.png"), noise(240, 320).transpose(1, 2, 0))
    half_x, half_y = PLACE.c + PLACE.a / 2, PLACE.f + PLACE.e / 2
    (tmp_path / "ortho.pgw").write_text(f"{PLACE.a}\n0\n0\n{PLACE.e}\n{half_x}\n{half_y}\n")
    (tmp_path / "ortho.prj").write_text(rasterio.crs.CRS.from_string(CRS).to_wkt())
    polygons = houses()
    prepare(tmp_path / "ortho.png", write_polygons(tmp_path / "a.gpkg", polygons), tmp_path / "out", split="none")
    assert (np.unique(mosaic(tmp_path / "out")) == [0, 1]).all()


def test_bands_of_several_files_are_one_scene(tmp_path: Path, labels: Path) -> None:
    """A stack gives the tiles of the file that holds all bands; so do other formats, and a variable."""
    with rasterio.open(scene(tmp_path / "whole.tif")) as source:
        bands, profile = source.read(), source.profile
    profile = {key: profile[key] for key in ("height", "width", "dtype", "crs", "transform")}
    files = []
    for band in range(3):
        files.append(tmp_path / f"B{band}.tif")
        with rasterio.open(files[-1], "w", driver="GTiff", count=1, **profile) as target:
            target.write(bands[[band]])
    jpeg = tmp_path / "ortho.jp2"
    with rasterio.open(jpeg, "w", driver="JP2OpenJPEG", count=3, QUALITY="100", REVERSIBLE="YES", **profile) as target:
        target.write(bands)
    common: tuple[str | Path | int, ...] = ("--labels", labels, "--field", "kind", "--tile_size", 48, "--workers", 1)
    given: dict[str, tuple[str | Path, ...]] = {
        "whole": (tmp_path / "whole.tif",),
        "stacked": ("--stack", *files),
        "jpeg": (jpeg,),
    }
    for name, sources in given.items():
        result = command(*sources, *common, "-o", tmp_path / name)
        assert result.exit_code == 0, result.output
    expected = sorted((tmp_path / "whole/img_dir").rglob("*.tif"))
    for name in ("stacked", "jpeg"):
        found = sorted((tmp_path / name / "img_dir").rglob("*.tif"))
        assert len(found) == len(expected) > 4
        for one, other in zip(found, expected, strict=True):
            with rasterio.open(one) as mine, rasterio.open(other) as theirs:
                np.testing.assert_array_equal(mine.read(), theirs.read())
                assert (mine.crs, mine.transform) == (theirs.crs, theirs.transform)
    again = command("--stack", *files, *common, "-o", tmp_path / "stacked")
    assert again.exit_code == 0, again.output
    refused = command(jpeg, *common, "--stack_resampling", "nearest", "-o", tmp_path / "none")
    assert refused.exit_code == 2 and "--stack_resampling has an effect with --stack only" in refused.output


def test_a_fourth_band_that_is_marked_alpha_by_default_can_be_read(tmp_path: Path, labels: Path) -> None:
    # As writers mark four bands unless told otherwise.
    ortho = scene(tmp_path / "ortho.tif", bands=4, photometric="RGB", alpha="YES")
    notes = prepare(ortho, labels, tmp_path / "three", field="kind").notes
    assert len(notes) == 1 and "band 4 is marked alpha" in notes[0] and notes[0].endswith("--bands 1 2 3 4 reads it.")
    assert {tile.image.shape[2] for tile in tiles(tmp_path / "three")} == {3}
    assert not prepare(ortho, labels, tmp_path / "four", field="kind", bands=(4, 1, 2, 3)).notes
    with rasterio.open(ortho) as source:
        left, top, infrared = source.transform.c, source.transform.f, source.read(4)
    for tile in tiles(tmp_path / "four"):
        x, y = round((tile.box[0] - left) / PLACE.a), round((tile.box[3] - top) / PLACE.e)
        assert (tile.image[:, :, 0] == infrared[y : y + 80, x : x + 80]).all() and tile.image.shape[2] == 4
    with rasterio.open(ortho, "r+") as target:
        target.write((infrared > 40).astype("uint8") * 255, 4)
    assert not prepare(ortho, labels, tmp_path / "mask", field="kind").notes  # a mask it is
