from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from rsseg_tf.errors import ExportError
from rsseg_tf.extras import install_command, require


def test_what_is_installed_is_imported() -> None:
    assert require("json.decoder", "tflite").JSONDecoder


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [("no_such_package.part", "no_such_package", "tflite"), ("onnxruntime", "onnxruntime", "onnx")],
)
def test_what_is_missing_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, module: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    message = f'The package {package} is needed .* pip install "\\.\\[{extra}\\]"'
    with pytest.raises(ExportError, match=message):
        require(module, extra)


def test_a_checkout_is_installed_from(tmp_path: Path) -> None:
    assert install_command("onnx") == 'pip install ".[onnx]"'


def test_what_came_from_a_wheel_names_what_the_extra_requires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No index has the package, and an installed one has no folder to install from."""
    wheel = tmp_path / "rsseg_tf-0.0.0.dist-info"
    wheel.mkdir()
    lines = ["Metadata-Version: 2.4", "Name: rsseg-tf", "Version: 0.0.0", "Requires-Dist: numpy<3,>=2.0"]
    lines += [f'Requires-Dist: {one}; extra == "onnx"' for one in ("tf2onnx<1.18,>=1.17", "onnx<2,>=1.23")]
    lines += ["Requires-Dist: tensorflow[and-cuda]<2.22,>=2.21 ; extra == 'gpu'"]
    (wheel / "METADATA").write_text("\n".join(lines), "utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr("rsseg_tf.extras._CHECKOUT", tmp_path)
    assert install_command("onnx") == 'pip install "tf2onnx<1.18,>=1.17" "onnx<2,>=1.23"'
    assert install_command("gpu") == 'pip install "tensorflow[and-cuda]<2.22,>=2.21"'


def test_no_text_names_the_package_of_an_index() -> None:
    """Until there is one, `pip install rsseg-tf[…]` fails for everybody."""
    root = Path(__file__).resolve().parents[1]
    folders = ("rsseg_tf", "docs", "export", "serving", "configs", "docker")
    files = [path for folder in folders for path in (root / folder).rglob("*") if path.is_file()]
    files += [*root.glob("*.md"), root / "setup.py"]
    named = re.compile(r"""(?:pip install (?:-\S+ )*["']?|Install )rsseg-tf(?:\[|["'\s]|$)""")
    texts = {path: path.read_bytes().decode("utf-8", "ignore") for path in files if path.suffix not in (".jpg", ".png")}
    texts = {path: text for path, text in texts.items() if path.name != "CHANGELOG.md"}
    assert [str(path) for path, text in texts.items() if named.search(text)] == []
