"""The Android example, compiled by kotlinc and run in a JVM, where LiteRT's Java classes and Bitmap have stand-ins.

The stand-ins in `android/` have the declarations of the real classes; LiteRT's interpreter asks this process, which
runs the .tflite file.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="extra tflite is not installed")
from ai_edge_litert.interpreter import Interpreter

from rsseg_tf.assets import asset_dir
from rsseg_tf.export import TrainedModel, write_tflite
from rsseg_tf.predict import predict_labels
from rsseg_tf.predictors import open_predictor
from rsseg_tf.rasters.windows import Size
from tests.fixtures.checkpoints import pixels

HERE = Path(__file__).parent / "android"
SOURCES = sorted((asset_dir("export") / "on_device" / "android").glob("*.kt"))
TILE = Size(32, 48)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ("kotlinc", "javac", "java"))), reason="kotlinc and a JDK are missing"
    ),
]


def compiled(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: " not in done.stderr.replace("OpenJDK 64-Bit Server VM warning: ", ""), done.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A jar of the example and a main function; the stand-ins are in a folder beside it."""
    folder = tmp_path_factory.mktemp("android")
    compiled("javac", "-d", folder / "classes", *sorted(HERE.rglob("*.java")))
    jar = folder / "program.jar"
    compiled("kotlinc", *SOURCES, HERE / "Main.kt", "-cp", folder / "classes", "-include-runtime", "-d", jar)
    return jar


@pytest.fixture(scope="module")
def models(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    images = [pixels(40, 48, seed=seed)[0] for seed in range(3)]
    return {
        "float32": folder / write_tflite(trained, folder, tile=TILE).path,
        "int8": folder / write_tflite(trained, folder, "int8", tile=TILE, calibration=images).path,
    }


class Model:
    """The real model, as the stand-in for LiteRT's interpreter sees it."""

    def __init__(self, path: Path) -> None:
        interpreter = Interpreter(model_path=str(path))
        self.run = interpreter.get_signature_runner("serving_default")

    def properties(self) -> list[str]:
        """Options of java that tell what the tensors are."""
        told: dict[str, Any] = {}
        for name, details in (
            ("pixels", self.run.get_input_details()["pixels"]),
            ("logits", self.run.get_output_details()["logits"]),
        ):
            scale, zero_point = details["quantization"]
            shape = ",".join(map(str, details["shape_signature"]))
            told[name] = {"shape": shape, "scale": scale, "zero_point": zero_point}
            told[name]["dtype"] = np.dtype(details["dtype"]).name.upper()
        return [f"-D{name}.{key}={value}" for name, values in told.items() for key, value in values.items()]

    def answer(self, program: subprocess.Popen[bytes]) -> None:
        """Runs windows until the program has no more."""
        assert program.stdin is not None and program.stdout is not None
        while head := program.stdout.read(4):
            window = np.frombuffer(program.stdout.read(*struct.unpack(">i", head)), np.uint8).reshape(1, *TILE, 3)
            logits = self.run(pixels=window)["logits"].tobytes()
            program.stdin.write(struct.pack(">i", len(logits)) + logits)
            program.stdin.flush()


@pytest.mark.parametrize("size", [(101, 77), (20, 90), (9, 11)])
@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_it_gives_the_labels_of_predict(
    program: Path, models: dict[str, Path], tmp_path: Path, quantization: str, size: tuple[int, int]
) -> None:
    path, image = models[quantization], pixels(*size)[0]
    colours = (image.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(-1) + 0xFF000000
    head = struct.pack(">ii", size[1], size[0])
    (tmp_path / "image").write_bytes(head + colours.astype(">u4").tobytes())
    model = Model(path)
    classes = f"{program}:{program.parent / 'classes'}"
    command = ["java", *model.properties(), "-cp", classes, "MainKt", str(path)]
    command += [str(tmp_path / name) for name in ("image", "labels", "manifest.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        model.answer(running)
        assert running.stderr is not None
        told = running.stderr.read().decode()
    assert running.returncode == 0, told
    opened = open_predictor(path)
    expected = predict_labels(opened.predict, image, opened.spec, opened.options.with_blend("mean"))
    found = np.frombuffer((tmp_path / "labels").read_bytes(), np.uint8).reshape(size)
    np.testing.assert_array_equal(found, expected)
    assert opened.manifest is not None and opened.manifest.dataset.classes[0] in (tmp_path / "manifest.json").read_text(
        "utf-8"
    )
