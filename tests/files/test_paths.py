from __future__ import annotations

from pathlib import Path

import pytest

from rsseg_tf.files.locks import hold
from rsseg_tf.files.paths import plain_path, readable_name


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder, where links go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a/Straße 1.tif", "a/Straße 1.tif"),
        ("a\nb\x1b[2J.tif", "a\\x0ab\\x1b[2J.tif"),
        (Path("caf\udce9.png"), "caf\\xe9.png"),
    ],
)
def test_a_name_is_one_line_that_any_terminal_takes(path: str | Path, text: str) -> None:
    assert readable_name(path) == text


def test_a_plain_path_is_given_as_it_is(tmp_path: Path, temporary: Path) -> None:
    with plain_path(tmp_path / "a b.gpkg") as given:
        assert given == str(tmp_path / "a b.gpkg")
    with plain_path(tmp_path / "a.gpkg", ".gpkg") as given:
        assert given == str(tmp_path / "a.gpkg")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", ["a;b.geojson", "x!y.geojson", "what?.geojson", "caf\udce9.geojson", "a.zip"])
def test_other_paths_are_reached_through_a_link(tmp_path: Path, temporary: Path, name: str) -> None:
    (tmp_path / name).write_text("{}", "utf-8")
    with plain_path(tmp_path / name, ".geojson") as given:
        assert Path(given).parent.parent == temporary and Path(given).name == "polygons.geojson"
        assert Path(given).read_text("utf-8") == "{}"
    assert list(temporary.iterdir()) == []


def test_a_link_brings_the_files_of_a_shapefile_along(tmp_path: Path) -> None:
    for suffix in (".shp", ".DBF", ".shx"):
        (tmp_path / f"a;b{suffix}").write_text(suffix, "utf-8")
    (tmp_path / "other.dbf").write_text("other", "utf-8")
    with plain_path(tmp_path / "a;b.shp", whole_family=True) as given:
        texts = {path.name: path.read_text("utf-8") for path in Path(given).parent.glob("polygons.*")}
    assert texts == {"polygons.shp": ".shp", "polygons.dbf": ".DBF", "polygons.shx": ".shx"}


def test_links_of_processes_that_were_killed_are_removed(tmp_path: Path, temporary: Path) -> None:
    for name in ("dead", "busy", "half_made"):
        (temporary / f"rsseg_tf_link_{name}").mkdir()
    (temporary / "rsseg_tf_link_dead" / "lock").touch()
    with hold(temporary / "rsseg_tf_link_busy" / "lock") or pytest.fail(), plain_path(tmp_path / "a;b.gpkg"):
        left = {path.name for path in temporary.iterdir()}
    assert "rsseg_tf_link_dead" not in left and {"rsseg_tf_link_busy", "rsseg_tf_link_half_made"} < left
