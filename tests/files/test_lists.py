from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import Sample, read_list, write_list


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    for name in ("img/a.png", "img/b.png", "ann/a.png", "ann/b.png", "img/with space.png", "ann/with space.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def listing(root: Path, text: str, encoding: str = "utf-8") -> Path:
    path = root.parent / "train.txt"
    path.write_bytes(text.encode(encoding))
    return path


def test_reads_pairs_in_order(root: Path) -> None:
    path = listing(root, "# pairs\nimg/b.png ann/b.png\n\n   \nimg/a.png   ann/a.png\r\n")
    assert read_list(path, root) == (
        Sample(root / "img/b.png", root / "ann/b.png"),
        Sample(root / "img/a.png", root / "ann/a.png"),
    )


def test_bom_tab_and_spaces(root: Path) -> None:
    path = listing(root, "img/with space.png\tann/with space.png\n", "utf-8-sig")
    assert read_list(path, root) == (Sample(root / "img/with space.png", root / "ann/with space.png"),)


def test_without_labels_takes_one_or_two_columns_and_ignores_the_second(root: Path) -> None:
    path = listing(root, "img/a.png\nimg/b.png ann/absent.png\n")
    assert read_list(path, root, labels=False) == (Sample(root / "img/a.png", None), Sample(root / "img/b.png", None))


def test_repeated_lines_are_kept(root: Path) -> None:
    assert len(read_list(listing(root, "img/a.png ann/a.png\n" * 3), root)) == 3


def test_absolute_paths(root: Path) -> None:
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
def test_bad_lists(root: Path, text: str, message: str) -> None:
    path = listing(root, text)
    with pytest.raises(DataError, match=message) as caught:
        read_list(path, root)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_three_columns_are_wrong_without_labels_too(root: Path) -> None:
    with pytest.raises(DataError, match="at most a label"):
        read_list(listing(root, "img/a.png ann/a.png 3\n"), root, labels=False)


def test_missing_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"List file .*val\.txt does not exist"):
        read_list(tmp_path / "val.txt", tmp_path)


def test_binary_list(root: Path) -> None:
    path = listing(root, "")
    path.write_bytes(b"\x89PNG\xff")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_list(path, root)


def test_list_is_a_folder(root: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_list(root, root)


@pytest.mark.parametrize("with_labels", [True, False])
def test_round_trip(root: Path, with_labels: bool) -> None:
    samples = tuple(
        Sample(root / "img" / name, root / "ann" / name if with_labels else None)
        for name in ("a.png", "with space.png")
    )
    path = root / "all.txt"
    write_list(path, samples, root)
    assert read_list(path, root, labels=with_labels) == samples
    assert sorted(item.name for item in root.iterdir()) == ["all.txt", "ann", "img"]


def test_writes_the_usual_format(root: Path) -> None:
    write_list(root / "t.txt", [Sample(root / "img/a.png", root / "ann/a.png")], root)
    assert (root / "t.txt").read_bytes() == b"img/a.png ann/a.png\n"


@pytest.mark.parametrize("name", ["#a.png", "a\tb.png", "a\nb.png", " a.png"])
def test_names_that_cannot_stand_in_a_list(root: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot stand in a list"):
        write_list(root / "t.txt", [Sample(root / name, None)], root)
    assert not (root / "t.txt").exists()


def test_write_refuses_outside_empty_and_unwritable(root: Path) -> None:
    with pytest.raises(DataError, match="lies outside the root"):
        write_list(root / "t.txt", [Sample(root.parent / "a.png", None)], root)
    with pytest.raises(DataError, match="at least one"):
        write_list(root / "t.txt", [], root)
    with pytest.raises(DataError, match=r"Cannot write .*t\.txt"):
        write_list(root / "absent" / "t.txt", [Sample(root / "img/a.png", None)], root)


# === What programs make of a list ===


PAIR = "img/a.png ann/a.png\n"


@pytest.mark.parametrize(
    "content",
    [
        ("\ufeff" + PAIR).encode(),
        ("\ufeff" + PAIR).encode("utf-16-le"),
        ("\ufeff" + PAIR).encode("utf-16-be"),
        PAIR.encode("utf-32"),
        PAIR.replace("\n", "\r").encode(),
        ("# first\r\n\r\n" + PAIR + "\r\n").encode(),
        ("  " + PAIR.replace("\n", "   \t \n")).encode(),
        (PAIR.replace(" ", "\t\t")).encode(),
        ("# joined\n\ufeff" + PAIR).encode(),
        PAIR.replace("/", "\\").encode(),
        PAIR.replace("/", "\\").replace(" ", "\t").encode(),
        b'"img/a.png" "ann/a.png"\n',
        b'"img/a.png"\t"ann/a.png"\n',
    ],
)
def test_the_same_pair_however_it_was_saved(root: Path, content: bytes) -> None:
    path = listing(root, "")
    path.write_bytes(content)
    assert read_list(path, root) == (Sample(root / "img/a.png", root / "ann/a.png"),)
    assert read_list(path, root, labels=False) == (Sample(root / "img/a.png", None),)


def test_quotes_hold_a_path_with_spaces_together(root: Path) -> None:
    path = listing(root, '"img/with space.png" "ann/with space.png"\n"img/a.png"  ann/a.png\n')
    assert [sample.image.name for sample in read_list(path, root)] == ["with space.png", "a.png"]


def test_a_path_with_spaces_alone_in_its_line_needs_no_tab(root: Path) -> None:
    path = listing(root, "img/with space.png\nimg/a.png ann/a.png\n")
    assert [sample.image.name for sample in read_list(path, root, labels=False)] == ["with space.png", "a.png"]


def test_names_with_quotes_and_backslashes_are_what_the_disk_says(root: Path) -> None:
    for name in ('"q".png', "b\\c.png"):
        (root / "img" / name).write_bytes(b"x")
    path = listing(root, 'img/"q".png\nimg/b\\c.png\n')
    assert [sample.image.name for sample in read_list(path, root, labels=False)] == ['"q".png', "b\\c.png"]


@pytest.mark.parametrize("encoding", ["latin-1", "gbk", "cp1251"])
def test_another_encoding_is_named_with_its_remedy(root: Path, encoding: str) -> None:
    name = {"latin-1": "café", "gbk": "武汉", "cp1251": "город"}[encoding]
    (root / "img" / f"{name}.png").write_bytes(b"x")
    path = listing(root, f"img/a.png\nimg/{name}.png\n", encoding)
    with pytest.raises(DataError, match=r"line 2 holds letters in another encoding, .* GBK.* Save it as UTF-8"):
        read_list(path, root, labels=False)


def test_utf_16_without_a_mark_is_named(root: Path) -> None:
    path = listing(root, "")
    path.write_bytes(PAIR.encode("utf-16-le"))
    with pytest.raises(DataError, match=r"line 1 holds zero bytes, as UTF-16 without .* Save it as UTF-8"):
        read_list(path, root)


def test_names_that_are_no_utf_8_go_through_a_list(root: Path) -> None:
    name = os.fsdecode(b"img/caf\xe9.png")
    (root / name).write_bytes(b"x")
    samples = [Sample(root / name, None), Sample(root / "img/a.png", None)]
    write_list(root / "all.txt", samples, root)
    assert (root / "all.txt").read_bytes() == b"img/caf\xe9.png\nimg/a.png\n"
    assert read_list(root / "all.txt", root, labels=False) == samples


# === Many samples ===


def test_a_list_is_a_sequence_of_samples(root: Path) -> None:
    path = listing(root, "img/a.png ann/a.png\nimg/b.png ann/b.png\nimg/a.png ann/b.png\n")
    samples = read_list(path, root)
    assert len(samples) == 3
    assert samples[-1] == samples[2] == Sample(root / "img/a.png", root / "ann/b.png")
    assert samples[1:] == (samples[1], samples[2])
    assert list(samples) == [samples[0], samples[1], samples[2]]
    assert samples == list(samples) and samples != list(samples)[:2] and samples != "abc"
    with pytest.raises(IndexError):
        samples[3]


def test_a_long_list_takes_little_memory(root: Path) -> None:
    count = 200_000
    lines = (f"img_dir/train/tile_{number:07d}.png ann_dir/train/tile_{number:07d}.png\n" for number in range(count))
    path = listing(root, "".join(lines))
    tracemalloc.start()
    samples = read_list(path, root, must_exist=False)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert samples[count - 1].image == root / f"img_dir/train/tile_{count - 1:07d}.png"
    assert held < 100 * count and peak < 250 * count
