"""PaddleSeg's flags and files on the command line: what they mean here, or what there is instead.

Flags with the same name and meaning are options of the commands. The others stand in a table for each command: a flag
becomes options of ours, or is answered by one line. A line that ends the run says that the result would be another one;
a note goes on, because the result is the same without the flag.
"""

from __future__ import annotations

import ast
import itertools
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rsseg_tf.cli.output import print_note

__all__ = ["as_here", "command_here"]


def as_here(command: str | None, arguments: Sequence[str]) -> list[str]:
    """Returns a command's arguments with PaddleSeg's flags put into ours.

    Args:
        command: Name of the command.
        arguments: As they were typed.

    Raises:
        ConfigError: For a flag that would change the result and has no counterpart, and for a file of PaddleSeg's
            weights, with the command that makes a checkpoint of it.
    """
    flags = _FLAGS.get(command or "")
    if flags is None:
        return list(arguments)
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += [word, *rest]
            break
        name, sign, value = word.partition("=")
        flag = flags.get(name[2:].replace("-", "_")) if name.startswith("--") else None
        if flag is None:
            words.append(word)
            continue
        values = [value] if sign else []
        while rest and len(values) < flag.most and not _is_option(rest[0]):
            values.append(rest.pop(0))
        words += flag.turn(_Given(name[2:].replace("-", "_"), tuple(values), tuple(arguments)))
    _check_weights(command or "", words)
    return words


_COMMANDS = {
    "val": "PaddleSeg's val.py is `rsseg-tf eval`.",
    "analyse": "PaddleSeg's analyse.py is `rsseg-tf eval --report FILE.html`.",
    "infer": "PaddleSeg's infer.py is `rsseg-tf predict`, which takes exported files too.",
}


def command_here(name: str) -> str:
    """Returns a sentence, after a blank, for a name that is a program of PaddleSeg; empty for others."""
    found = _COMMANDS.get(name.removesuffix(".py"))
    return "" if found is None else f" {found}"


def _is_option(word: str) -> bool:
    return word.startswith("-") and not word[1:2].isdigit()


# === Flags ===


_ALL_CHECKPOINTS = "1000000"


class _Given(NamedTuple):
    """A flag as it was typed.

    Attributes:
        name: With underscores, as PaddleSeg writes it.
        values: What follows it.
        arguments: The whole command line.
    """

    name: str
    values: tuple[str, ...]
    arguments: tuple[str, ...]

    def has(self, option: str, value: str) -> bool:
        """Whether an option has a value."""
        words = [word.replace("_", "-") if word.startswith("--") else word for word in self.arguments]
        return f"{option}={value}" in words or (option, value) in itertools.pairwise(words)


class _Flag(NamedTuple):
    """A flag of PaddleSeg.

    Attributes:
        most: Most values that it takes.
        turn: Gives the words that stand for it.
    """

    most: int
    turn: Callable[[_Given], list[str]]


def _stop(line: str) -> NoReturn:
    from rsseg_tf.errors import ConfigError

    raise ConfigError(line)


def _refused(line: str, most: int = 0) -> _Flag:
    """A flag that would change the result and has no counterpart."""
    return _Flag(most, lambda given: _stop(f"--{given.name}: {line}"))


def _needless(line: str, most: int = 0, allowed: tuple[str, ...] = ()) -> _Flag:
    """A flag without which the result is the same."""

    def turn(given: _Given) -> list[str]:
        if allowed and given.values not in [(value,) for value in allowed]:
            _stop(f"--{given.name} is {' '.join(given.values) or 'empty'}; PaddleSeg takes {' or '.join(allowed)}.")
        print_note(f"--{given.name}: {line}")
        return []

    return _Flag(most, turn)


def _readers(given: _Given) -> list[str]:
    """PaddleSeg's 0 reads in the main process, which is one reader here."""
    return ["--num-workers", *("1" if value == "0" else value for value in given.values)]


def _kept(given: _Given) -> list[str]:
    """PaddleSeg's 0 keeps all checkpoints."""
    return ["--keep-checkpoint-max", *(_ALL_CHECKPOINTS if value == "0" else value for value in given.values)]


def _device(given: _Given) -> list[str]:
    if given.values and given.values[0] in ("xpu", "npu", "mlu"):
        _stop(f"--device {given.values[0]}: TensorFlow runs on CPUs and GPUs here; write --device gpu or cpu.")
    return ["--device", *given.values]


def _device_id(given: _Given) -> list[str]:
    return [] if given.has("--device", "cpu") else ["--gpus", *given.values]  # as in PaddleSeg


def _amp_level(given: _Given) -> list[str]:
    if given.values == ("O2",):
        _stop(
            "--amp_level O2: weights stay in float32 here; leave it out. --precision fp16 is PaddleSeg's O1, and "
            "--precision bf16 needs no loss scaling."
        )
    if given.values != ("O1",):
        _stop(f"--amp_level is {' '.join(given.values) or 'empty'}; PaddleSeg takes O1 or O2.")
    if not given.has("--precision", "fp16"):
        _stop("--amp_level O1 has an effect with --precision fp16 only, in PaddleSeg too; add it, or leave both out.")
    return []


def _area_under_curve(given: _Given) -> list[str]:
    if given.values in ((), ("False",), ("false",), ("0",)):
        return []
    _stop(
        "--auc_roc: no area under a curve is counted here; leave it out. --report FILE.html shows confidence against "
        "accuracy, and --calibrate its error (ECE)."
    )


# PaddleSeg's key -> ours. Keys that are in no row and begin with a section of ours are taken as they are.
_KEYS = {
    "batch_size": "train.batch_size",
    "iters": "train.iters",
    "lr_scheduler.learning_rate": "lr_schedule.learning_rate",
    "lr_scheduler.end_lr": "lr_schedule.end_lr",
    "lr_scheduler.power": "lr_schedule.power",
    "lr_scheduler.warmup_iters": "lr_schedule.warmup_steps",
    "lr_scheduler.warmup_start_lr": "lr_schedule.warmup_start_lr",
    "optimizer.beta1": "optimizer.beta_1",
    "optimizer.beta2": "optimizer.beta_2",
    "train_dataset.dataset_root": "dataset.root",
    "val_dataset.dataset_root": "dataset.root",
    "test_config.scales": "eval.scales",
    "test_config.flip_horizontal": "eval.flip_horizontal",
    "test_config.flip_vertical": "eval.flip_vertical",
    "test_config.is_slide": "eval.is_slide",
    "test_config.crop_size": "eval.crop_size",
    "test_config.stride": "eval.stride",
}
_SECTIONS = ("augment", "data", "dataset", "eval", "lr_schedule", "model", "optimizer", "sampling", "train")
_INSTEAD = {
    "test_config.aug_eval": "eval.scales and eval.flip_horizontal alone decide; leave it out.",
    "train_dataset.train_path": "it is dataset.train_list here, a path relative to dataset.root.",
    "val_dataset.val_path": "it is dataset.val_list here, a path relative to dataset.root.",
    "to_static_training": "steps are compiled in any case; leave it out.",
}


def _options(given: _Given) -> list[str]:
    """`--opts a.b=1 c=2`, and the older `--opts a.b 1 c 2`, as --set."""
    pairs, left = [], list(given.values)
    while left:
        word = left.pop(0)
        key, sign, value = word.partition("=")
        if not sign:
            if not left:
                _stop(f"--opts takes key=value; got {word} without a value. --set KEY=VALUE does the same.")
            value = left.pop(0)
        pairs.append((key, value))
    if not pairs:
        _stop("--opts takes key=value, such as --opts batch_size=1; got none. --set KEY=VALUE does the same.")
    return [word for key, value in pairs for word in ("--set", f"{_key(key)}={_value(_key(key), value)}")]


def _key(key: str) -> str:
    from rsseg_tf.errors import did_you_mean

    if (line := _INSTEAD.get(key)) is not None:
        _stop(f"--opts {key}: {line}")
    if key in _KEYS:
        return _KEYS[key]
    if key.partition(".")[0] in _SECTIONS and "." in key:
        return key
    hint = did_you_mean(key, _KEYS)
    return _stop(
        f"--opts {key}: this key of PaddleSeg has no counterpart.{hint} `rsseg-tf config show CONFIG` prints the keys "
        "that --set takes."
    )


def _value(key: str, text: str) -> str:
    """Returns a value as YAML: PaddleSeg reads Python's, in which 1,2 is a list of two numbers."""
    try:
        value: Any = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    if key == "eval.scales" and not isinstance(value, list | tuple):
        value = [value]
    if key == "eval.scales":
        value = [float(scale) if isinstance(scale, int) else scale for scale in value]
    try:
        return json.dumps(value)
    except TypeError:  # sets, bytes
        return text


def _model_of_export(given: _Given) -> list[str]:
    return list(given.values)


def _folder_of_export(given: _Given) -> list[str]:
    return ["--output", *given.values]


def _input_shape(given: _Given) -> list[str]:
    """`--input_shape 1 3 H W`."""
    try:
        sides = [int(value) for value in given.values]
    except ValueError:
        sides = []
    if len(sides) != 4:
        _stop(f"--input_shape takes four numbers, such as 1 3 512 512; got {' '.join(given.values) or 'none'}.")
    if sides[0] not in (1, -1):
        _stop(f"--input_shape has a batch of {sides[0]}; exported files take one of any size or 1. Write 1.")
    if sides[2:] == [-1, -1]:
        return []
    if min(sides[2:]) < 1:
        _stop(f"--input_shape has the sides {sides[2]} {sides[3]}; both are numbers of pixels, or both -1.")
    return ["--tile", *map(str, sides[2:])]


_MULTILABEL = _refused("a pixel has one label here, and all its classes share one softmax; leave it out.")
_DATA_FORMAT = _needless(
    "images are (height, width, bands) here, and results are the same; leave it out.", 1, ("NCHW", "NHWC")
)
_OF_EXPORT = "it belongs to `rsseg-tf export`, which takes it; leave it out of a training."
_READING = {"num_workers": _Flag(1, _readers), "device": _Flag(1, _device)}
_TRAIN = {
    **_READING,
    "keep_checkpoint_max": _Flag(1, _kept),
    "use_vdl": _needless(
        "curves are written as TensorBoard events, to tensorboard/ of the run, unless --logger names others."
    ),
    "use_ema": _Flag(0, lambda given: ["--set", "train.ema=0.999"]),  # PaddleSeg's decay
    "amp_level": _Flag(1, _amp_level),
    "profiler_options": _refused(
        "`rsseg-tf benchmark train --config CONFIG` tells how fast a config trains here, and what holds it up.", 1
    ),
    "data_format": _DATA_FORMAT,
    "repeats": _needless("runs are counted in iters, and lists are shuffled anew without end; leave it out.", 1),
    "opts": _Flag(10**6, _options),
    "use_multilabel": _MULTILABEL,
    "to_static_training": _needless("steps are compiled in any case; leave it out."),
    "test_config": _refused(
        "this section is called eval here: --set eval.is_slide=true eval.crop_size=[512,512] eval.stride=[384,384].",
        10**6,
    ),
    "output_op": _refused(_OF_EXPORT, 1),
    "input_shape": _refused(_OF_EXPORT, 4),
    "for_fd": _refused("FastDeploy reads Paddle's files; `rsseg-tf export --format onnx` writes ONNX."),
}
_FLAGS: dict[str, dict[str, _Flag]] = {
    "train": _TRAIN,
    "eval": {
        **_READING,
        "data_format": _DATA_FORMAT,
        "auc_roc": _Flag(1, _area_under_curve),
        "opts": _Flag(10**6, _options),
        "use_multilabel": _MULTILABEL,
        "test_config": _TRAIN["test_config"],
    },
    "predict": {
        "device": _READING["device"],
        "device_id": _Flag(1, _device_id),
        "opts": _Flag(10**6, _options),
        "use_multilabel": _MULTILABEL,
        "dataset_path": _refused("images are named by --image_path.", 1),
    },
    "export": {
        "model_path": _Flag(1, _model_of_export),
        "save_dir": _Flag(1, _folder_of_export),
        "input_shape": _Flag(4, _input_shape),
        "output_op": _needless(
            "a SavedModel has it all: serving_default gives classes and confidence (argmax), probabilities (softmax) "
            "and logits (none); ONNX and TFLite files give class_map and confidence.",
            1,
            ("argmax", "softmax", "none"),
        ),
        "for_fd": _TRAIN["for_fd"],
    },
}
"""By command and name; the values of a flag end at the next option."""


# === Files ===

_WEIGHTS = "model.pdparams"


def _check_weights(command: str, words: list[str]) -> None:
    """Answers a file of PaddleSeg's weights in place of a checkpoint by the command that makes one of it."""
    flag = "--resume-model" if command == "train" else "--model-path"
    path = _paddles(_after(words, flag))
    if path is None and command == "export":
        path = next((found for word in words if not word.startswith("-") and (found := _paddles(word))), None)
    if path is None:
        return
    config = _after(words, "--config") or "CONFIG"
    target = path.with_name(f"{path.stem}_checkpoint")
    convert = shlex.join(["rsseg-tf", "convert", str(path), "--config", config, "-o", str(target)])
    whose = "" if config != "CONFIG" else " (a config of ours: `rsseg-tf config import theirs.yml -o CONFIG`)"
    if command == "train":
        _stop(
            f"{path} holds weights of PaddleSeg, without the state of a training that could go on here. Type: "
            f"{convert}{whose}; and train with --set model.pretrained={shlex.quote(str(target))}."
        )
    name = f"--model_path {shlex.quote(str(target))}" if command != "export" else shlex.quote(str(target))
    _stop(f"{path} holds weights of PaddleSeg alone. Type: {convert}{whose}; and name {name} here.")


def _after(words: list[str], option: str) -> str | None:
    """Returns the value of an option."""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        name, sign, value = word.partition("=")
        if name.replace("_", "-") == option:
            return value if sign else following
    return None


def _paddles(name: str | None) -> Path | None:
    """Returns the file of weights that a name stands for: PaddleSeg names it, or for a training its folder."""
    if not name:
        return None
    path = Path(name)
    if path.suffix == ".pdparams" and path.is_file():
        return path
    inside = path / _WEIGHTS
    return inside if inside.is_file() and not (path / "weights.npz").is_file() else None
