from __future__ import annotations

import sys

import pytest

from rsseg_tf.errors import ExportError
from rsseg_tf.extras import require


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
    message = f'The package {package} is needed .* pip install "rsseg-tf\\[{extra}\\]"'
    with pytest.raises(ExportError, match=message):
        require(module, extra)
