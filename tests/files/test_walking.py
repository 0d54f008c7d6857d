from __future__ import annotations

from pathlib import Path

from rsseg_tf.files.walking import IMAGE_SUFFIXES, LeftOut, find_images


def test_links_are_followed_and_what_is_left_out_is_one_sentence(tmp_path: Path) -> None:
    folder, store = tmp_path / "in", tmp_path / "store"
    folder.mkdir()
    store.mkdir()
    for path in (folder / "b.PNG", store / "a.tif", folder / ".c.tif", folder / "._b.PNG", folder / "d.jp2",
                 folder / "e.NC", folder / "f.jp2", folder / "b.pgw", folder / "notes.txt"):  # fmt: skip
        path.write_bytes(b"x")
    (folder / "linked").symlink_to(store)
    (folder / "loop").symlink_to(".")
    (folder / "gone.tif").symlink_to("nowhere")
    left_out = LeftOut(IMAGE_SUFFIXES)
    found = list(find_images(folder, IMAGE_SUFFIXES, left_out))
    assert found == [folder / "b.PNG", folder / "linked/a.tif"]
    assert left_out
    assert str(left_out) == (
        "left out: files of other formats (2 .jp2, 1 .nc; convert them to TIFF or PNG); "
        f"{folder}/gone.tif (the link leads nowhere); "
        f"{folder}/loop (the link leads back to a folder that it lies in); {folder}/.c.tif (hidden)"
    )


def test_nothing_left_out_is_no_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    left_out = LeftOut(IMAGE_SUFFIXES)
    assert list(find_images(tmp_path, IMAGE_SUFFIXES, left_out)) == [tmp_path / "a.png"]
    assert not left_out and str(left_out) == ""
