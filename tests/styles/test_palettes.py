from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import rasterio

from rsseg_tf.errors import DataError
from rsseg_tf.rasters.images import write_png
from rsseg_tf.styles import read_palette

# As QGIS 3.22 and 3.34 write them, shortened.
PALETTED = """<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22.16"><pipe><provider><resampling enabled="false"/></provider>
<rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1"><colorPalette>
<paletteEntry value="0" label="wa &amp; &quot;ter&quot;" color="#0a141e" alpha="255"/>
<paletteEntry value="7" label="Straße" color="#5a5a5a" alpha="128"/>
<paletteEntry value="255" label="" color="#000000" alpha="0"/>
</colorPalette></rasterrenderer></pipe></qgis>"""
EXACT = """<qgis><pipe><rasterrenderer type="singlebandpseudocolor" band="1"><rastershader>
<colorrampshader colorRampType="{kind}" classificationMode="1">
<item alpha="255" color="#0000ff" label="water" value="1"/><item alpha="255" color="#00ff00" label="trees" value="2"/>
</colorrampshader></rastershader></rasterrenderer></pipe></qgis>"""
CATEGORIES = """<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.34"><renderer-v2 type="categorizedSymbol" attr="class"><categories>
<category value="water" label="Water body" render="true" symbol="0" type="string"/>
<category value="3" label="road" render="true" symbol="1"/>
<category render="true" symbol="2" label="trees" type="List">
<val value="oak" type="string"/><val value="elm" type="string"/></category>
<category value="" label="others" render="true" symbol="2"/>
</categories><symbols>
<symbol type="fill" name="0"><layer class="SimpleFill" enabled="0"><prop k="color" v="1,1,1,255"/></layer>
<layer class="SimpleFill" enabled="1"><Option type="Map"><Option name="color" value="10,20,30,255"/></Option></layer>
</symbol>
<symbol type="fill" name="1"><layer class="SimpleFill" enabled="1"><prop k="color" v="0,0,0,255"/>
<prop k="style" v="no"/><prop k="outline_color" v="90,91,92,255"/></layer></symbol>
<symbol type="fill" name="2"><layer class="CentroidFill" enabled="1"><symbol type="marker" name="@2@0">
<layer class="SimpleMarker" enabled="1"><Option type="Map">
<Option name="color" value="0,255,1,255,rgb:0,1,0.0039,1"/></Option></layer></symbol></layer></symbol>
</symbols></renderer-v2></qgis>"""
RULES = """<qgis><renderer-v2 type="RuleRenderer"><rules key="{{a}}">
<rule filter=" &quot;kind&quot; = 'd''or' " symbol="0" label="gold"/>
<rule filter="class_id = 4" symbol="1" label="four"/>
<rule filter="area &gt; 3" symbol="1" label="large"/></rules><symbols>
<symbol name="0"><layer class="SimpleFill"><prop k="color" v="255,215,0,255"/></layer></symbol>
<symbol name="1"><layer class="SimpleFill"><prop k="color" v="4,4,4,255"/></layer></symbol>
</symbols></renderer-v2></qgis>"""
SINGLE = """<qgis><renderer-v2 type="singleSymbol"><symbols><symbol name="0"><layer class="SimpleFill">
<prop k="color" v="4,4,4,255"/></layer></symbol></symbols></renderer-v2></qgis>"""
TABLE = """<PAMDataset><PAMRasterBand band="2"><CategoryNames><Category>no</Category></CategoryNames></PAMRasterBand>
<PAMRasterBand band="1"><CategoryNames><Category>a</Category><Category/><Category>c</Category></CategoryNames>
{table}</PAMRasterBand></PAMDataset>"""
ROWS = """<GDALRasterAttributeTable tableType="thematic">
<FieldDefn index="0"><Name>Value</Name><Type>0</Type><Usage>5</Usage></FieldDefn>
<FieldDefn index="1"><Name>Class</Name><Type>2</Type><Usage>2</Usage></FieldDefn>
<FieldDefn index="2"><Name>R</Name><Type>0</Type><Usage>6</Usage></FieldDefn>
<FieldDefn index="3"><Name>G</Name><Type>0</Type><Usage>7</Usage></FieldDefn>
<FieldDefn index="4"><Name>B</Name><Type>0</Type><Usage>8</Usage></FieldDefn>
<Row index="0"><F>4</F><F>four</F><F>1</F><F>2</F><F>3</F></Row>
<Row index="1"><F>9.0</F><F>nine</F><F>255</F><F>0</F><F>0</F></Row></GDALRasterAttributeTable>"""


def write_labels(
    path: Path, colours: Mapping[int, tuple[int, ...]], tags: dict[str, str] | None = None, nodata: int | None = None
) -> Path:
    shape = {"width": 4, "height": 4, "count": 1, "dtype": "uint8", "nodata": nodata}
    with rasterio.open(path, "w", driver="GTiff", **shape) as target:
        target.write(np.zeros((1, 4, 4), np.uint8))
        if colours:
            target.write_colormap(1, colours)
        target.update_tags(1, **(tags or {}))
    return path


def write_package(path: Path, rows: list[tuple[str, str, int]]) -> Path:
    with sqlite3.connect(path) as database:
        database.execute(
            "create table layer_styles (id integer primary key autoincrement, f_table_catalog, f_table_schema, "
            "f_table_name, f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description, owner, ui, "
            "update_time)"
        )
        database.executemany("insert into layer_styles (f_table_name, styleQML, useAsDefault) values (?, ?, ?)", rows)
    database.close()
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PALETTED, [(0, 'wa & "ter"', (10, 20, 30)), (7, "Straße", (90, 90, 90))]),
        (EXACT.format(kind="EXACT"), [(1, "water", (0, 0, 255)), (2, "trees", (0, 255, 0))]),
        (EXACT.format(kind="INTERPOLATED"), []),
        (
            CATEGORIES,
            [
                ("water", "Water body", (10, 20, 30)),
                (3, "road", (90, 91, 92)),
                ("oak", "trees", (0, 255, 1)),
                ("elm", "trees", (0, 255, 1)),
            ],
        ),
        (RULES, [("d'or", "gold", (255, 215, 0)), (4, "four", (4, 4, 4))]),
        (SINGLE, []),
        ("<qgis/>", []),
    ],
)
def test_a_qml_gives_its_classes(tmp_path: Path, text: str, expected: list[tuple[object, ...]]) -> None:
    (tmp_path / "a.qml").write_text(text, "utf-8")
    assert read_palette(tmp_path / "a.qml") == expected
    # QGIS takes it as the style of the file with the same stem.
    (tmp_path / "a.geojson").write_text("{}", "utf-8")
    assert read_palette(tmp_path / "a.geojson") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY x "y">]><qgis>&x;</qgis>', "declares entities"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><qgis>&x;</qgis>', "declares entities"),
        ('<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1/x.dtd"> %x;]><qgis/>', "declares entities"),
        ("<qgis>" + "<a>" * 200 + "</a>" * 200 + "</qgis>", "nested more than 100"),
        ("<qgis>" + " " * (16 * 2**20) + "</qgis>", "more than 16 MiB"),
        ("<qgis", "damaged XML"),
        ("", "damaged XML"),
        ('<?xml version="1.0" encoding="nonsense"?><qgis/>', "damaged XML"),
    ],
)
def test_hostile_and_damaged_styles_are_refused_in_a_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.qml").write_text(text, "utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_palette(tmp_path / "a.qml")
    assert "\n" not in str(caught.value)


def test_a_package_gives_the_default_style_of_a_layer(tmp_path: Path) -> None:
    other = CATEGORIES.replace("water", "lake")
    path = write_package(tmp_path / "a.gpkg", [("roads", CATEGORIES, 1), ("roads", other, 0)])
    before = path.read_bytes()
    assert read_palette(path)[0] == ("water", "Water body", (10, 20, 30))
    assert read_palette(path, "roads") == read_palette(path)
    assert read_palette(path, "houses") == []
    assert path.read_bytes() == before
    path = write_package(tmp_path / "b.gpkg", [("roads", CATEGORIES, 1), ("lakes", other, 0)])
    assert read_palette(path, "lakes")[0].value == "lake"
    with pytest.raises(DataError, match="styles for 2 layers: 'lakes', 'roads'"):
        read_palette(path)


def test_a_package_without_styles_takes_the_one_beside_it(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.gpkg") as database:
        database.execute("create table t (a)")
    database.close()
    assert read_palette(tmp_path / "a.gpkg") == []
    (tmp_path / "a.qml").write_text(RULES, "utf-8")
    assert len(read_palette(tmp_path / "a.gpkg")) == 2


def test_a_table_of_styles_that_is_a_program_is_not_run(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.gpkg") as database:
        database.execute(
            "create view layer_styles as with recursive n(id) as (select 1 union all select id + 1 from n) "
            "select id, 't' as f_table_name, 'x' as styleQML, 1 as useAsDefault, 0 as update_time from n"
        )
    database.close()
    assert read_palette(tmp_path / "a.gpkg") == []


def test_a_damaged_package_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.gpkg").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(DataError, match=r"the styles in .*a\.gpkg cannot be read"):
        read_palette(tmp_path / "a.gpkg")


def test_a_raster_gives_its_attribute_table(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "a.tif", {4: (8, 8, 8, 255), 0: (5, 5, 5, 255), 2: (6, 6, 6, 0)}, nodata=2)
    side = tmp_path / "a.tif.aux.xml"
    side.write_text(TABLE.format(table=ROWS), "utf-8")
    assert read_palette(path) == [(4, "four", (1, 2, 3)), (9, "nine", (255, 0, 0))]
    # Category names alone name the colours of the table in the raster; a transparent one stands for no data.
    side.write_text(TABLE.format(table=""), "utf-8")
    assert read_palette(path) == [(0, "a", (5, 5, 5))]
    side.write_text("<PAMDataset/>", "utf-8")
    assert (4, "", (8, 8, 8)) in read_palette(path)
    # What QGIS would draw comes first.
    (tmp_path / "a.qml").write_text(PALETTED, "utf-8")
    assert read_palette(path)[1].name == "Straße"


def test_a_raster_gives_the_names_in_its_tags(tmp_path: Path) -> None:
    colours = {0: (0, 0, 255, 255), 1: (90, 90, 90, 255), 255: (0, 0, 0, 0)}
    path = write_labels(tmp_path / "a.tif", colours, {"CLASS_0": "water", "CLASS_1": "road", "CLASS_x": "no"})
    assert read_palette(path) == [(0, "water", (0, 0, 255)), (1, "road", (90, 90, 90))]
    path = write_labels(tmp_path / "b.tif", colours, {"CLASS_NAMES": '["water", "road"]'})
    assert read_palette(path) == [(0, "water", (0, 0, 255)), (1, "road", (90, 90, 90))]
    assert read_palette(write_labels(tmp_path / "c.tif", {}, {"CLASS_0": "water"})) == []


def test_a_picture_gives_its_palette(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((2, 2), np.uint8), ((1, 2, 3), (4, 5, 6)))
    assert read_palette(tmp_path / "a.png")[:2] == [(0, "", (1, 2, 3)), (1, "", (4, 5, 6))]


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_palette(tmp_path / "a.qml")
