from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from rsseg_tf.config.document import load_document, parse_assignment
from rsseg_tf.config.paddleseg import import_paddleseg
from rsseg_tf.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_scalars_follow_yaml_1_2(tmp_path: Path) -> None:
    text = "a: 1e-4\nb: on\nc: 12:30\nd: 010\ne: ~\nf: -5\ng: 2.\nh: true\ni: '1'\nj: 2026-01-01\n"
    values = load_document(write(tmp_path / "c.yml", text)).values
    expected = {"a": 1e-4, "b": "on", "c": "12:30", "d": 10, "e": None, "f": -5, "g": 2.0, "h": True, "i": "1"}
    assert values == expected | {"j": "2026-01-01"}
    assert isinstance(values["a"], float)


def test_a_duplicate_key_names_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yml", "train:\n  iters: 1\n  seed: 2\n  iters: 3\n")
    with pytest.raises(ConfigError, match=r"c\.yml:4: the key 'iters' was already written on line 2"):
        load_document(path)


def test_bases_merge_mappings_and_replace_lists(tmp_path: Path) -> None:
    write(tmp_path / "one.yml", "m: {a: 1, b: [1, 2, 3]}\nk: 1\n")
    write(tmp_path / "two.yml", "k: 2\n")
    path = write(tmp_path / "c.yml", "base: [one.yml, two.yml]\nm: {b: [9]}\n")
    document = load_document(path)
    assert document.values == {"m": {"a": 1, "b": [9]}, "k": 2}
    assert document.origin(("m", "a")).endswith("one.yml:1")
    assert document.origin(("k",)).endswith("two.yml:1")
    assert document.origin(("m", "b", 0)).endswith("c.yml:2")


def test_a_base_may_be_a_shipped_config_but_a_file_nearby_wins(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yml", "base: _base_/dubai.yml\n")
    assert load_document(path).values["dataset"]["name"] == "dubai"
    (tmp_path / "_base_").mkdir()
    write(tmp_path / "_base_" / "dubai.yml", "near: true\n")
    assert load_document(path).values == {"near": True}


def test_a_changed_name_starts_the_section_afresh(tmp_path: Path) -> None:
    write(tmp_path / "base.yml", "model: {name: fcn, channels: 7, backbone: {name: x, depth: 3}}\n")
    changed = write(tmp_path / "c.yml", "base: base.yml\nmodel: {name: other}\n")
    assert load_document(changed).values["model"] == {"name": "other"}
    nested = write(tmp_path / "d.yml", "base: base.yml\nmodel: {backbone: {name: y}}\n")
    assert load_document(nested).values["model"] == {"name": "fcn", "channels": 7, "backbone": {"name": "y"}}
    same = write(tmp_path / "e.yml", "base: base.yml\nmodel: {name: fcn, backbone: {depth: 4}}\n")
    assert load_document(same).values["model"]["backbone"] == {"name": "x", "depth": 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2\n", r"c\.yml:2: this is not valid YAML"),
        ("- 1\n", "a config is a mapping of keys to values; got seq"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", r"c\.yml:3: .*merge keys are not supported"),
        ("base: nowhere.yml\n", r"nowhere\.yml, which .*c\.yml names as its base, does not exist"),
        ("base: 3\n", "base must be a file name or a list of them; got 3"),
        ("base: c.yml\n", "based on each other: c.yml -> c.yml"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_document(write(tmp_path / "c.yml", text))


def test_a_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_document(tmp_path / "none.yml")
    (tmp_path / "b.yml").write_bytes(b"\x80\x81")
    with pytest.raises(ConfigError, match="cannot be read as UTF-8 text"):
        load_document(tmp_path / "b.yml")


def test_assignments_are_yaml() -> None:
    document = parse_assignment("augment.crop_size=[64, 32]")
    assert document.values == {"augment": {"crop_size": [64, 32]}}
    assert document.origin(("augment", "crop_size", 0)) == "--set augment.crop_size=[64, 32]"
    assert parse_assignment("a=").values == {"a": None}
    assert parse_assignment("a.b={c: 1}").values == {"a": {"b": {"c": 1}}}


@pytest.mark.parametrize("text", ["novalue", "=1", "a..b=1"])
def test_bad_assignments(text: str) -> None:
    with pytest.raises(ConfigError, match="--set takes KEY=VALUE"):
        parse_assignment(text)


# === Files that are no configs, by accident or by intent ===


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_text_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str) -> None:
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    (tmp_path / "c.yml").write_bytes(mark + "name: Städte\r\ntrain: {iters: 5}\r\n".encode(encoding))
    assert load_document(tmp_path / "c.yml").values == {"name": "Städte", "train": {"iters": 5}}


def laughs(opening: str, closing: str) -> str:
    """A billion values in ten lines."""
    lines = ["a0: &a0 1"]
    for i in range(1, 10):
        inside = ", ".join(f"k{j}: *a{i - 1}" if opening == "{" else f"*a{i - 1}" for j in range(9))
        lines.append(f"a{i}: &a{i} {opening}{inside}{closing}")
    return "\n".join(lines)


HOSTILE = {
    "references to lists": (laughs("[", "]"), "more than 20000 values"),
    "references to mappings": (laughs("{", "}"), "more than 20000 values"),
    "a list within itself": ("a: &x [*x]\n", "nests deeper than 50"),
    "deep lists": ("a: " + "[" * 5000, "nests too deeply"),
    "deep mappings": ("".join(" " * i + "a:\n" for i in range(200)), "nests deeper than 50"),
    "a control character": ("a: b\x07\n", r"the character U\+0007 at position 4 is not allowed"),
    "a zero": ("a: \x00\n", r"the character U\+0000"),
    "a number without end": ("a: " + "9" * 5000, r"c\.yml:1: the value '9+ cannot be read: ValueError: Exceeds"),
    "a large number": ("a: " + "9" * 40, "is too large"),
    "a tag": ("a: !!binary aGVsbG8=\n", "a value is text, a number, true, false or null; got the YAML tag"),
    "a date": ("a: !!timestamp 2020-02-31\n", "the value '2020-02-31' cannot be read"),
    "a program": (
        "a: !!python/object/apply:os.system [x]\n",
        r"the YAML tag \S+os\.system is not supported",
    ),
    "a tab": ("a:\n\tb: 1\n", "not valid YAML"),
    "a key that is a list": ("? [a]\n: 1\n", "keys are plain words"),
    "an unknown reference": ("a: *nothing\n", "undefined alias"),
    "two documents": ("a: 1\n---\nb: 2\n", "not valid YAML"),
    "much text": ("a: " + "x" * 2**20, "larger than 1 MiB"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_config_is_an_error_of_one_line(tmp_path: Path, name: str) -> None:
    text, message = HOSTILE[name]
    with pytest.raises(ConfigError, match=message) as caught:
        load_document(write(tmp_path / "c.yml", text))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("name", HOSTILE)
def test_importing_what_is_no_config_is_an_error_of_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        import_paddleseg(write(tmp_path / "c.yml", HOSTILE[name][0]))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x80\x81\x82", b"\x89PNG\r\n\x1a\n\x00\x00\xff"])
def test_bytes_that_are_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.yml").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as UTF-"):
        load_document(tmp_path / "c.yml")


def test_bases_of_bases_are_read_once_each(tmp_path: Path) -> None:
    write(tmp_path / "c0.yml", "k: 1\n")
    for i in range(1, 20):
        write(tmp_path / f"c{i}.yml", f"base: [{', '.join([f'c{i - 1}.yml'] * 9)}]\n")
    assert load_document(tmp_path / "c19.yml").values == {"k": 1}


def test_a_hostile_assignment_is_an_error_of_one_line() -> None:
    for value in ("9" * 5000, "\x07", "[" * 5000, "!!binary aGVsbG8="):
        with pytest.raises(ConfigError):
            parse_assignment(f"a={value}")
