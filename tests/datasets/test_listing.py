from __future__ import annotations

import pytest

from rsseg_tf.datasets import Sample, read_list, write_list
from rsseg_tf.errors import DataError


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    for name in ("img/a.png", "img/b.png", "ann/a.png", "ann/b.png", "img/with space.png", "ann/with space.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def listing(root, text, encoding="utf-8"):
    path = root.parent / "train.txt"
    path.write_bytes(text.encode(encoding))
    return path


def test_reads_pairs_in_order(root):
    path = listing(root, "# pairs\nimg/b.png ann/b.png\n\n   \nimg/a.png   ann/a.png\r\n")
    assert read_list(path, root) == (
        Sample(root / "img/b.png", root / "ann/b.png"),
        Sample(root / "img/a.png", root / "ann/a.png"),
    )


def test_bom_tab_and_spaces(root):
    path = listing(root, "img/with space.png\tann/with space.png\n", "utf-8-sig")
    assert read_list(path, root) == (Sample(root / "img/with space.png", root / "ann/with space.png"),)


def test_without_labels_takes_one_or_two_columns_and_ignores_the_second(root):
    path = listing(root, "img/a.png\nimg/b.png ann/absent.png\n")
    assert read_list(path, root, labels=False) == (Sample(root / "img/a.png", None), Sample(root / "img/b.png", None))


def test_repeated_lines_are_kept(root):
    assert len(read_list(listing(root, "img/a.png ann/a.png\n" * 3), root)) == 3


def test_absolute_paths(root):
    path = listing(root, f"{root}/img/a.png\t{root}/ann/a.png\n")
    assert read_list(path, root.parent / "elsewhere")[0].image == root / "img/a.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# only a comment\n\n", "is empty"),
        ("img/a.png ann/a.png\nimg/b.png\n", "line 2: 1 column; an image and a label"),
        ("img/with space.png ann/with space.png\n", "line 1: 4 columns.*by a tab"),
        ("img/a.png ann/a.png\nimg/no.png ann/no.png\nimg/a.png ann/no2.png", r"3 missing files; .*no\.png \(line 2\)"),
        ("img/a.png ann/no.png\n", r"1 missing file; the first is .*ann/no\.png \(line 1\)"),
        ("img ann/a.png\n", "1 missing file;"),
    ],
)
def test_bad_lists(root, text, message):
    path = listing(root, text)
    with pytest.raises(DataError, match=message) as caught:
        read_list(path, root)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_three_columns_are_wrong_without_labels_too(root):
    with pytest.raises(DataError, match="at most a label"):
        read_list(listing(root, "img/a.png ann/a.png 3\n"), root, labels=False)


def test_missing_list(tmp_path):
    with pytest.raises(DataError, match=r"List file .*val\.txt does not exist"):
        read_list(tmp_path / "val.txt", tmp_path)


def test_binary_list(root):
    path = listing(root, "")
    path.write_bytes(b"\x89PNG\xff")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_list(path, root)


def test_list_is_a_folder(root):
    with pytest.raises(DataError, match="cannot be read"):
        read_list(root, root)


@pytest.mark.parametrize("with_labels", [True, False])
def test_round_trip(root, with_labels):
    samples = tuple(
        Sample(root / "img" / name, root / "ann" / name if with_labels else None)
        for name in ("a.png", "with space.png")
    )
    path = root / "all.txt"
    write_list(path, samples, root)
    assert read_list(path, root, labels=with_labels) == samples
    assert sorted(item.name for item in root.iterdir()) == ["all.txt", "ann", "img"]


def test_writes_the_usual_format(root):
    write_list(root / "t.txt", [Sample(root / "img/a.png", root / "ann/a.png")], root)
    assert (root / "t.txt").read_bytes() == b"img/a.png ann/a.png\n"


@pytest.mark.parametrize("name", ["#a.png", "a\tb.png", "a\nb.png", " a.png"])
def test_names_that_cannot_stand_in_a_list(root, name):
    with pytest.raises(DataError, match="cannot stand in a list"):
        write_list(root / "t.txt", [Sample(root / name, None)], root)
    assert not (root / "t.txt").exists()


def test_write_refuses_outside_empty_and_unwritable(root):
    with pytest.raises(DataError, match="lies outside the root"):
        write_list(root / "t.txt", [Sample(root.parent / "a.png", None)], root)
    with pytest.raises(DataError, match="at least one"):
        write_list(root / "t.txt", [], root)
    with pytest.raises(DataError, match=r"Cannot write .*t\.txt"):
        write_list(root / "absent" / "t.txt", [Sample(root / "img/a.png", None)], root)
