"""PaddleSeg's flags and files on the command line, and folders of its configs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from rsseg_tf.cli import main
from rsseg_tf.cli.paddleseg import as_here
from rsseg_tf.config import load_config
from rsseg_tf.errors import ConfigError
from tests.fixtures.paddleseg import CITYSCAPES, WHOLE

# All flags of tools/{train,val,predict,export}.py, with the values of an example.
FLAGS = {
    "train": "--config c.yml --device cpu --save_dir out --num_workers 0 --do_eval --use_vdl --use_ema "
    "--resume_model iter_1 --iters 10 --batch_size 2 --learning_rate 0.01 --save_interval 5 --log_iters 5 "
    "--keep_checkpoint_max 2 --early_stop_intervals 3 --seed 1 --precision fp16 --amp_level O1 --data_format NCHW "
    "--repeats 1 --opts batch_size=1 model.pretrained=a --to_static_training",
    "eval": "--config c.yml --model_path m --num_workers 0 --device gpu --aug_eval --scales 0.5 1.0 --flip_horizontal "
    "--flip_vertical --is_slide --crop_size 64 64 --stride 32 32 --data_format NHWC --auc_roc False "
    "--opts test_config.scales=0.75,1",
    "predict": "--config c.yml --model_path m --image_path i --save_dir out --device gpu --device_id 0 --aug_pred "
    "--scales 0.5 --flip_horizontal --flip_vertical --is_slide --crop_size 64 64 --stride 32 32 --custom_color 0 0 0 9",
    "export": "--config c.yml --model_path m --save_dir out --input_shape 1 3 64 96 --output_op softmax",
}
REFUSED = {
    "train": ["--use_multilabel", "--profiler_options batch_range=[50,60]", "--amp_level O2", "--amp_level O1",
              "--output_op argmax", "--input_shape 1 3 64 64", "--for_fd", "--device xpu", "--data_format CHW",
              "--test_config is_slide=True", "--opts loss.coef=1", "--opts to_static_training=True", "--opts a",
              "--opts train_dataset.train_path=a"],
    "eval": ["--use_multilabel", "--auc_roc True", "--device npu", "--opts test_config.aug_eval=True", "--opts"],
    "predict": ["--use_multilabel", "--device mlu", "--dataset_path a"],
    "export": ["--for_fd", "--input_shape 2 3 64 64", "--input_shape 1 3 a b", "--input_shape 1 3 0 64",
               "--output_op sigmoid"],
}  # fmt: skip


def parsed(command: str, line: str) -> dict[str, Any]:
    """Returns the values of a command's options, without running it."""
    found = main.get_command(click.Context(main), command)
    assert found is not None
    settings = main.context_settings["token_normalize_func"]
    with found.make_context(command, shlex.split(line), token_normalize_func=settings) as context:
        return dict(context.params)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def lines(result: Result) -> list[str]:
    return result.output.strip().splitlines()


def test_every_flag_of_train_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    values = parsed("train", FLAGS["train"])
    assert (values["num_workers"], values["keep_checkpoint_max"], values["precision"]) == (1, 2, "fp16")
    assert values["overrides"] == ("train.ema=0.999", "train.batch_size=1", "model.pretrained=a")
    notes = capsys.readouterr().err.splitlines()
    told = ["--use_vdl", "--data_format", "--repeats", "--to_static_training"]
    assert [note.removeprefix("Note: ").partition(":")[0] for note in notes] == told
    assert "TensorBoard" in notes[0]


def test_names_of_programs() -> None:
    assert "PaddleSeg's val.py is `rsseg-tf eval`." in run("val", "--config", "a").output
    assert "is `rsseg-tf eval --report FILE.html`." in run("analyse").output
    assert "Did you mean 'train'?" in run("trian").output


def test_zero_keeps_all_checkpoints() -> None:
    assert parsed("train", "--config c.yml --keep_checkpoint_max 0")["keep_checkpoint_max"] > 10**5
    assert parsed("train", "--config c.yml --keep_checkpoint_max 3")["keep_checkpoint_max"] == 3


def test_every_flag_of_val_is_taken() -> None:
    values = parsed("eval", FLAGS["eval"])
    assert values["num_workers"] == 1 and values["augmented"] and values["scales"] == (0.5, 1.0)
    assert values["overrides"] == ("eval.scales=[0.75, 1.0]",)


def test_every_flag_of_predict_is_taken() -> None:
    assert parsed("predict", FLAGS["predict"])["gpus"] == (0,)
    assert parsed("predict", FLAGS["predict"].replace("--device gpu", "--device=cpu"))["gpus"] == ()


def test_every_flag_of_export_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    values = parsed("export", FLAGS["export"])
    assert (values["checkpoint"], values["output"], values["tile"]) == (Path("m"), Path("out"), (64, 96))
    assert "probabilities (softmax)" in capsys.readouterr().err
    assert parsed("export", "m -o out --input_shape -1 3 -1 -1")["tile"] is None


@pytest.mark.parametrize(("command", "flag"), [(name, flag) for name, flags in REFUSED.items() for flag in flags])
def test_flags_without_a_counterpart_are_answered_by_one_line(command: str, flag: str) -> None:
    needed = {"train": "--config c.yml", "eval": "--model_path m", "predict": "--model_path m --image_path i",
              "export": "m -o out"}  # fmt: skip
    result = run(command, *shlex.split(needed[command]), *shlex.split(flag))
    assert result.exit_code == 2 and len(lines(result)) == 1, result.output
    assert lines(result)[0].startswith(f"Error: {flag.partition(' ')[0]}"), result.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--opts", "a=1"], None),
        (["--opts", "iters=7", "optimizer.beta1", "0.8"], ["train.iters=7", "optimizer.beta_1=0.8"]),
        (["--opts=iters=7", "--x"], ["train.iters=7"]),
        (["--opts", "model.align_corners=True"], ["model.align_corners=true"]),
        (["--opts", "test_config.crop_size=64,32"], ["eval.crop_size=[64, 32]"]),
        (["--opts", "test_config.scales=1"], ["eval.scales=[1.0]"]),
        (["--opts", "train_dataset.dataset_root=data/a b"], ["dataset.root=data/a b"]),
    ],
)
def test_keys_of_opts_are_ours(words: list[str], expected: Sequence[str] | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="--opts a: this key of PaddleSeg has no counterpart"):
            as_here("train", words)
        return
    turned = as_here("train", words)
    assert [word for word in turned if word not in ("--set", "--x")] == list(expected)


def test_other_words_stay_as_they_are() -> None:
    words = ["--config", "a.yml", "--set", "a=1", "-o", "out", "--", "--use_vdl"]
    assert as_here("train", words) == words
    assert as_here("eval", []) == []
    assert as_here("check-data", ["--opts", "1"]) == ["--opts", "1"]


def test_a_config_of_paddleseg_names_the_command_that_imports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("theirs.yml").write_text(WHOLE, "utf-8")
    for command in (["train", "--config"], ["config", "check"], ["config", "show"]):
        [line] = lines(run(*command, "theirs.yml"))
        assert line.startswith("Error: theirs.yml is a config of PaddleSeg. Type: rsseg-tf config import")
    typed = shlex.split(line[line.index("rsseg-tf ") + len("rsseg-tf ") : line.index(";")])
    assert run(*typed).exit_code == 0
    assert load_config("theirs_rsseg.yml").model.name == "ocrnet"


def test_weights_of_paddleseg_name_the_command_that_converts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("best_model").mkdir()
    Path("best_model/model.pdparams").touch()
    convert = "rsseg-tf convert best_model/model.pdparams --config ours.yml -o best_model/model_checkpoint"
    for words, rest in (
        ("eval --model_path best_model/model.pdparams --config ours.yml", "name --model_path best_model/model_ch"),
        ("predict --image_path a --model_path=best_model --config=ours.yml", "name --model_path best_model/model_ch"),
        ("export best_model -o out --config ours.yml", "name best_model/model_checkpoint here."),
        ("export --model_path best_model --save_dir out --config ours.yml", "name best_model/model_checkpoint here."),
        ("train --resume_model best_model --config ours.yml", "--set model.pretrained=best_model/model_checkpoint"),
    ):
        result = run(*words.split())
        [line] = lines(result)
        assert result.exit_code == 2 and convert in line and rest in line, line
    assert "config import theirs.yml -o CONFIG" in run("eval", "--model_path", "best_model").output
    Path("best_model/weights.npz").touch()  # a checkpoint beside such a file is one
    assert "PaddleSeg" not in run("eval", "--model_path", "best_model").output


def tree(folder: Path) -> None:
    (folder / "sub").mkdir(parents=True)
    (folder / "_base_").mkdir()
    (folder / "_base_" / "base.yml").write_text(CITYSCAPES.partition("model:")[0], "utf-8")
    model = "model: {type: FCN, backbone: {type: HRNet_W18}, backbone_indices: [-1], num_classes: 19}\n"
    (folder / "sub" / "fcn.yml").write_text(f"_base_: ../_base_/base.yml\n{model}", "utf-8")
    (folder / "segformer.yaml").write_text(CITYSCAPES, "utf-8")
    (folder / "notes.txt").write_text("no config", "utf-8")


def test_a_folder_is_imported(tmp_path: Path) -> None:
    tree(tmp_path / "theirs")
    out = tmp_path / "ours"
    only_told = run("config", "import", str(tmp_path / "theirs"))
    assert only_told.exit_code == 0 and "2 imported, 1 bases, 0 refused; name a folder with -o" in only_told.output
    result = run("config", "import", str(tmp_path / "theirs"), "-o", str(out))
    assert result.exit_code == 0 and "_base_/base.yml" in result.output
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert written == ["segformer.yaml", "sub/fcn.yml"]
    assert load_config(out / "sub" / "fcn.yml").model.name == "fcn"
    again = run("config", "import", str(tmp_path / "theirs"), "-o", str(out))
    assert again.exit_code == 2 and "segformer.yaml exists, and so do 1 others" in again.output
    assert run("config", "import", str(tmp_path / "theirs"), "-o", str(out), "--overwrite").exit_code == 0


def test_what_is_refused_in_a_folder_is_told(tmp_path: Path) -> None:
    theirs, out = tmp_path / "theirs", tmp_path / "ours"
    tree(theirs)
    values = yaml.safe_load(CITYSCAPES)
    values |= {"model": {"type": "SFNet", "num_classes": 19}, "unheard_of": 1}
    (theirs / "sub" / "sfnet.yml").write_text(yaml.safe_dump(values), "utf-8")
    (theirs / "broken.yml").write_text("a: [", "utf-8")
    result = run("config", "import", str(theirs), "-o", str(out))
    assert result.exit_code == 1 and "2 imported, 1 bases, 2 refused" in result.output
    told = " ".join(result.output.split())
    assert "sub/sfnet.yml refused model: the type SFNet" in told and "(and 1 more)" in told
    assert not (out / "sub" / "sfnet.yml").exists() and (out / "sub" / "fcn.yml").exists()


def test_a_folder_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run("config", "import", str(tmp_path / "empty"))
    assert result.exit_code == 2 and "holds no file that ends in .yml or .yaml" in result.output
    (tmp_path / "empty" / "a.yml").write_text("model: {type: SFNet}\n", "utf-8")
    result = run("config", "import", str(tmp_path / "empty"), "-o", str(tmp_path / "out"))
    assert result.exit_code == 2 and "None of 1 files could be imported" in result.output
    assert not (tmp_path / "out").exists()
