"""Styles and side files that are written: what they hold, and what of others' stays."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
import rasterio

from rsseg_tf.errors import DataError
from rsseg_tf.styles import (
    PaletteEntry,
    confidence_qml,
    labels_qml,
    polygons_qml,
    put_layer_style,
    read_palette,
    side_file,
    users_styles,
    with_side_table,
    write_qml,
)

ENTRIES = [PaletteEntry(0, 'wa<t>er & "sea"', (0, 0, 255)), PaletteEntry(7, "Straße 日本", (90, 91, 92))]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert write_qml(tmp_path / "a.qml", labels_qml(ENTRIES)) and read_palette(tmp_path / "a.qml") == ENTRIES
    assert write_qml(tmp_path / "a.qml", polygons_qml(ENTRIES, "class_id")), "over our own"
    assert read_palette(tmp_path / "a.qml") == ENTRIES
    named = [entry._replace(value=entry.name) for entry in ENTRIES]
    write_qml(tmp_path / "a.qml", polygons_qml(named, "class"))
    assert read_palette(tmp_path / "a.qml") == named
    write_qml(tmp_path / "a.qml", confidence_qml())
    assert read_palette(tmp_path / "a.qml") == []
    assert [file.name for file in tmp_path.iterdir()] == ["a.qml"]


def test_a_name_that_xml_cannot_hold_is_made_readable(tmp_path: Path) -> None:
    entries = [PaletteEntry(0, "bell \x07 and \ud800", (1, 2, 3))]
    write_qml(tmp_path / "a.qml", labels_qml(entries))
    (tmp_path / "a.tif.aux.xml").write_text(with_side_table("", entries), "utf-8")
    assert read_palette(tmp_path / "a.qml")[0].name == "bell \ufffd and \ufffd"


@pytest.mark.parametrize(
    "text", ["", "<qgis/>", "no XML", labels_qml(ENTRIES).replace("<!-- Written by", "<!-- Mine, from")]
)
def test_what_others_have_written_stays(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.qml").write_text(text, "utf-8")
    assert not write_qml(tmp_path / "a.qml", labels_qml(ENTRIES))
    assert (tmp_path / "a.qml").read_text("utf-8") == text


def test_a_side_file_keeps_its_other_content(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    shape = {"width": 4, "height": 4, "count": 2, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **shape, crs="+proj=eqearth +datum=WGS84") as target:
        target.write(np.zeros((2, 4, 4), np.uint8))
    side = side_file(path)
    before = side.read_text("utf-8")
    assert "<SRS" in before
    second = '<PAMRasterBand band="2"><Description>x</Description></PAMRasterBand></PAMDataset>'
    text = before.replace("</PAMDataset>", second)
    for entries in (ENTRIES[:1], ENTRIES):  # the second time over our own
        text = with_side_table(text, entries)
    side.write_text(text, "utf-8")
    assert text.count("<GDALRasterAttributeTable") == text.count("<CategoryNames") == 1
    assert text.count("<Category>") + text.count("<Category />") == 8
    with rasterio.open(path) as source:
        assert source.crs == rasterio.crs.CRS.from_user_input("+proj=eqearth +datum=WGS84")
        assert source.descriptions == (None, "x")
    assert read_palette(path) == ENTRIES
    with pytest.raises(DataError, match="a side file of GDAL is damaged XML"):
        with_side_table("<PAMDataset>", ENTRIES)


def test_styles_of_a_package_are_put_beside_those_of_a_user(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    with sqlite3.connect(path) as database:
        database.execute("create table gpkg_contents (table_name, data_type, identifier, description, srs_id)")
        database.execute("create table gpkg_geometry_columns (table_name, column_name)")
        database.execute("insert into gpkg_geometry_columns values ('a', 'shape')")
    database.close()
    assert users_styles(path, "a") == [] and read_palette(path) == []
    for _ in range(2):
        put_layer_style(path, "a", polygons_qml(ENTRIES, "class_id"), users_styles(path, "a"))
    assert read_palette(path, "a") == ENTRIES
    with sqlite3.connect(path) as database:
        assert database.execute("select f_geometry_column, useAsDefault from layer_styles").fetchall() == [("shape", 1)]
        assert database.execute("select data_type from gpkg_contents").fetchall() == [("attributes",)]
        database.execute("update layer_styles set styleQML = '<qgis/>'")  # as if a user had saved one
    database.close()
    put_layer_style(path, "a", polygons_qml(ENTRIES, "class_id"), users_styles(path, "a"))
    with sqlite3.connect(path) as database:
        rows = database.execute("select styleQML = '<qgis/>', useAsDefault from layer_styles order by id").fetchall()
    database.close()
    assert rows == [(1, 1), (0, 0)]
