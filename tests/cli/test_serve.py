from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from rsseg_tf.cli import main
from rsseg_tf.predict import predict_labels
from rsseg_tf.rasters.windows import Size
from tests.fixtures.models import manifest, pixels, reference, write_model


@pytest.mark.slow
def test_a_model_is_served_and_predicts_images_by_its_address(tmp_path: Path) -> None:
    """The commands as a user types them: serve, its smoke test, predict over gRPC and REST, and the end by SIGTERM."""
    from tests.fixtures.http import rest
    from tests.fixtures.processes import Process

    write_model(tmp_path / "tiny" / "1")
    image = pixels(1, 60, 70)[0]
    cv2.imwrite(str(tmp_path / "scene.png"), image[..., ::-1])
    origins = ("https://maps.example.org", "http://localhost:3000")
    more = ("--label", "stable=1", "--cors-origin", origins[0], "--cors_origin", origins[1])
    served = Process(tmp_path / "tiny", "--rest_port", "0", "--grpc_port", "0", *more)
    try:
        assert rest(served, "/v1/models/tiny/labels/stable")[0] == 200  # type: ignore[arg-type]
        for origin in (*origins, "https://example.org"):
            address = f"http://127.0.0.1:{served.rest_port}/v1/models/tiny"
            with urllib.request.urlopen(urllib.request.Request(address, headers={"Origin": origin})) as answer:
                assert answer.headers["Access-Control-Allow-Origin"] == (origin if origin in origins else None)
        script = Path(__file__).parents[2] / "serving" / "smoke_test.py"
        ports = ["--rest-port", str(served.rest_port), "--grpc-port", str(served.grpc_port)]
        smoke = subprocess.run(
            [sys.executable, str(script), *ports, "--model-name", "tiny"], capture_output=True, text=True, timeout=120
        )
        assert "All 7 steps succeeded." in smoke.stdout, smoke.stdout + smoke.stderr

        from rsseg_tf.predict import InferenceOptions

        options = InferenceOptions(is_slide=True, crop_size=Size(32, 32), stride=Size(24, 24))
        expected = predict_labels(reference, image, manifest().spec, options)
        for address in (f"127.0.0.1:{served.grpc_port}", f"http://127.0.0.1:{served.rest_port}"):
            result = CliRunner().invoke(
                main,
                [
                    *("predict", "--server", address, "--model_name", "tiny", "--in_flight", "3"),
                    *("--is_slide", "--crop_size", "32", "32", "--stride", "24", "24"),
                    *("--image_path", str(tmp_path / "scene.png"), "--save_dir", str(tmp_path / "result")),
                ],
            )
            assert result.exit_code == 0, result.output
            found = cv2.imread(str(tmp_path / "result/pseudo_color_prediction/scene.png"), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(_ids(found), expected)
            (tmp_path / "result/pseudo_color_prediction/scene.png").unlink()
    finally:
        code, told = served.end(signal.SIGTERM)
    assert code == 0 and "The server has stopped." in told


def _ids(picture: np.ndarray) -> np.ndarray:
    """Returns class ids of a picture in the palette's colours."""
    palette = np.array(manifest().spec.palette)[:, ::-1]
    distance = np.abs(picture[..., np.newaxis, :3].astype(int) - palette).sum(-1)
    assert (distance.min(-1) == 0).all()
    return distance.argmin(-1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "none"], "none does not exist; a folder of a SavedModel export is needed"),
        (["serve", "."], "has no version of a model"),
        (["serve", ".", "--label", "stable"], "must be LABEL=VERSION"),
        (["serve", ".", "--max_batch_size", "0"], "x>=1"),
        (["serve", ".", "--metrics_path", "x"], "metrics_path must look like"),
        (["serve", ".", "--cors-origin", "https://example.org/map"], "An origin is http:// or https://"),
        (["serve", "init", "x"], "Missing option '--export'"),
        (["serve", "init", "x", "--export", "none"], "none cannot be read"),
        (["predict", "--image_path", "a.png"], "--model_path is missing"),
        (["predict", "--image_path", "a.png", "--timeout", "3"], "--timeout has an effect with --server only"),
        (["predict", "--image_path", "a.png", "--server", "x:1"], "--server needs --model_name"),
        (["predict", "--image_path", "a.png", "--server", "x:1", "--model_path", "y"], "both name a model"),
        (["predict", "--image_path", "a.png", "--server", "x", "--model_name", "y"], "HOST:PORT for gRPC"),
        (
            ["predict", "--image_path", "a.png", "--server", "x:1", "--model_name", "y", "--precision", "bf16"],
            "--precision has no effect with --server",
        ),
        (
            ["predict", "--image_path", "a.png", "--server", "x:1", "--model_name", "y", "--set", "a=1"],
            "--set has no effect with --server",
        ),
        (
            [
                *("predict", "--image_path", "a.png", "--server", "127.0.0.1:9", "--model_name", "y"),
                *("--patience", "0", "--timeout", "5"),
            ],
            "did not answer in 1 try",
        ),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.png", pixels(1)[0])
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output and "Traceback" not in result.output


def test_a_server_that_does_not_answer_at_once_is_told(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), pixels(1)[0])
    arguments = ["predict", "--image_path", str(tmp_path / "a.png"), "--save_dir", str(tmp_path / "out")]
    result = CliRunner().invoke(
        main, [*arguments, "--server", "127.0.0.1:9", "--model_name", "y", "--patience", "0.3", "--timeout", "5"]
    )
    told, error = result.stderr.splitlines()
    assert told.startswith("Note: No answer yet: 127.0.0.1:9: ") and "asked again for 0.3 seconds" in told
    assert result.exit_code == 2 and error.startswith("Error: The server did not answer in ")


def test_help_says_what_production_is() -> None:
    text = CliRunner().invoke(main, ["serve", "--help"]).output
    assert "For production use TensorFlow Serving" in " ".join(text.split())
    assert "--max-batch-size" in text and "init" in text
    assert "--overwrite" in CliRunner().invoke(main, ["serve", "init", "--help"]).output


def test_every_option_of_the_server_is_explained() -> None:
    from rsseg_tf.cli.serve import command

    for subcommand in command.commands.values():
        for parameter in subcommand.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, parameter.name


def test_init_writes_files_for_an_export(tmp_path: Path) -> None:
    (tmp_path / "dubai" / "3").mkdir(parents=True)
    (tmp_path / "dubai" / "3" / "manifest.json").write_text(manifest().to_json(), "utf-8")
    deploy = tmp_path / "deploy"
    (tmp_path / "file").touch()
    refused = CliRunner().invoke(main, ["serve", "init", str(tmp_path / "file"), "--export", str(tmp_path / "dubai")])
    assert refused.exit_code == 2
    assert "file cannot be written: File exists. Choose another folder" in refused.output
    result = CliRunner().invoke(main, ["serve", "init", str(deploy), "--export", str(tmp_path / "dubai")])
    assert result.exit_code == 0, result.output
    assert f"Wrote {deploy / 'compose.yml'}" in result.output
    assert 'key: "stable" value: 3' in (deploy / "models.config").read_text("utf-8")


def test_init_says_what_it_wrote_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rsseg_tf.cli", "serve", "init", str(tmp_path), "--export", str(tmp_path / "none")]
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("Error: ") and len(result.stderr.splitlines()) == 1, result.stderr
