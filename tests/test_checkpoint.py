from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest

from rsseg_tf import checkpoint
from rsseg_tf.build import build_model
from rsseg_tf.checkpoint import (
    TrainState,
    config_file,
    load_weights,
    read_state,
    recover_checkpoints,
    restore_training,
    save_checkpoint,
)
from rsseg_tf.config import Config, load_config
from rsseg_tf.config.schema import SGD, AdamW
from rsseg_tf.errors import ConfigError, OldKeyWarning, WeightsError
from rsseg_tf.training.optimizers import build_optimizer
from tests.fixtures.configs import tiny_config, use_tiny_backbone

STATE = TrainState(step=12, samples_seen=48, best_miou=0.5, best_step=8, stale_intervals=2)
# With a dropout, whose seed is part of a run's position.
DROPOUT = "model={name: deeplabv3plus, backbone: {name: resnet18_vd}, aspp_rates: [1, 2], aspp_channels: 8}"
FILES = ["config.yml", "state.json", "training.npz", "weights.npz"]


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)


def build(config: Config) -> tuple[keras.Model, keras.optimizers.Optimizer]:
    model = build_model(config)
    optimizer = build_optimizer(config.optimizer, precision=config.train.precision)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def small(options: SGD | AdamW | None = None) -> tuple[keras.Model, keras.optimizers.Optimizer]:
    """A model with all kinds of variables that is built in no time; its kernel fills many blocks of a disk."""
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(600, 3, name="conv")(image)
    x = keras.layers.BatchNormalization(name="norm")(x)
    model = keras.Model(image, {"main": keras.layers.Dropout(0.1, name="dropout")(x)}, name="small")
    optimizer = build_optimizer(options or SGD(name="sgd"))
    optimizer.build(model.trainable_variables)
    return model, optimizer


def variables(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    return [*model.variables, *optimizer.variables]


def values(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable.value).copy() for variable in variables(model, optimizer)]


def make_distinct(model: keras.Model, optimizer: keras.optimizers.Optimizer, start: int) -> None:
    """Gives each variable numbers that no other one has."""
    for number, variable in enumerate(variables(model, optimizer), start):
        ramp = np.arange(np.prod(variable.shape, dtype=int)).reshape(variable.shape)
        variable.assign((ramp % 7 + number).astype(variable.dtype))


def assert_same(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny_config(tmp_path)


@pytest.fixture
def saved(tmp_path: Path, config: Config) -> Path:
    """A checkpoint of the small model in out/iter_1."""
    folder = tmp_path / "out" / "iter_1"
    model, optimizer = small()
    make_distinct(model, optimizer, 1)
    save_checkpoint(folder, model, optimizer, STATE, config)
    return folder


# === What is saved comes back ===


@pytest.mark.parametrize(
    "extra",
    [(), ("optimizer={name: adamw}",), ("train.precision=fp16",)],
    ids=["sgd", "adamw", "fp16"],
)
def test_a_model_that_is_built_later_in_the_process_gets_every_variable(tmp_path: Path, extra: tuple[str, ...]) -> None:
    config = tiny_config(tmp_path, DROPOUT, *extra)
    first = build(config)
    make_distinct(*first, start=1)
    save_checkpoint(tmp_path / "iter_12", *first, STATE, config)

    keras.layers.Dropout(0.1)  # Keras numbers the seeds of a process, whichever model they belong to
    second = build(config)
    seeds = [[v.path for v in model.variables if "seed_generator" in v.path] for model in (first[0], second[0])]
    assert len(seeds[0]) == 1
    assert seeds[0] != seeds[1], "the second seed must have another name, or this test proves nothing"

    make_distinct(*second, start=100)
    load_weights(second[0], tmp_path / "iter_12")
    restore_training(*second, tmp_path / "iter_12")
    assert_same(values(*first), values(*second))


def test_a_checkpoint_holds_state_config_and_nothing_temporary(tmp_path: Path, config: Config, saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == FILES
    assert [path.name for path in saved.parent.iterdir()] == ["iter_1"]
    assert read_state(saved) == STATE
    assert load_config(config_file(saved)) == config


def test_the_folder_of_the_data_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tmp_path)
    root = Path(config.dataset.root)
    monkeypatch.chdir(root.parent)
    relative = config.dataset.model_copy(update={"root": root.name})
    absent = config.dataset.model_copy(update={"root": "not/yet/there"})
    for dataset, recorded in ((relative, str(root)), (absent, "not/yet/there")):
        given = config.model_copy(update={"dataset": dataset})
        save_checkpoint(tmp_path / "iter_1", *small(), STATE, given)
        assert load_config(tmp_path / "iter_1" / "config.yml").dataset.root == recorded


def test_weights_alone_are_saved_without_an_optimizer(tmp_path: Path, config: Config) -> None:
    model, optimizer = small()
    save_checkpoint(tmp_path / "best_model", model, None, STATE, config)
    assert sorted(path.name for path in (tmp_path / "best_model").iterdir()) == [
        name for name in FILES if name != "training.npz"
    ]
    load_weights(model, tmp_path / "best_model")
    with pytest.raises(WeightsError, match=r"best_model holds weights only, no optimizer; resume from an iter_N"):
        restore_training(model, optimizer, tmp_path / "best_model")


def test_two_weights_of_one_name_are_refused(tmp_path: Path, config: Config) -> None:
    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.Dense(2, name="a")(keras.layers.Dense(2, name="b")(image)), name="twins")
    model.layers[1].kernel._path = model.layers[2].kernel.path
    with pytest.raises(ConfigError, match=r"The model 'twins' has two weights named a/kernel; rename a layer"):
        save_checkpoint(tmp_path / "iter_1", model, None, STATE, config)


# === Another architecture ===


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.channels=16",
            r"does not fit the model 'fcn': \d+ differ in shape \(first: head_conv/kernel, stored \[1, 1, 8, 8\], "
            r"model \[1, 1, 8, 16\]\)\. Use the config that lies beside it: .*iter_1/config\.yml",
        ),
        (
            DROPOUT,
            r"does not fit the model 'deeplabv3plus': \d+ of its \d+ variables are missing "
            r"\(first: aspp_branch2_depthwise/kernel\); \d+ stored arrays have no variable \(first: head_conv/kernel\)",
        ),
    ],
    ids=["shape", "missing and left over"],
)
def test_weights_of_another_architecture_change_nothing(
    tmp_path: Path, config: Config, override: str, message: str
) -> None:
    saved = tmp_path / "iter_1"
    save_checkpoint(saved, *build(config), STATE, config)
    model, optimizer = build(tiny_config(tmp_path, override))
    before = values(model, optimizer)
    with pytest.raises(WeightsError, match=message):
        load_weights(model, saved)
    assert_same(values(model, optimizer), before)


def test_the_counts_and_the_first_name_are_those_of_the_differences(saved: Path) -> None:
    model, optimizer = small()
    before = values(model, optimizer)
    with np.load(saved / "weights.npz") as archive:
        arrays = dict(archive)
    first, second, third = list(arrays)[:3]
    del arrays[first], arrays[second]
    arrays[third] = arrays[third][None]
    np.savez(saved / "weights.npz", **arrays, surplus=np.zeros(1))
    with pytest.raises(
        WeightsError,
        match=rf"2 of its {len(model.weights)} variables are missing \(first: {first}\); "
        rf"1 stored arrays have no variable \(first: surplus\); 1 differ in shape \(first: {third}, stored \[1, ",
    ):
        load_weights(model, saved)
    assert_same(values(model, optimizer), before)


def test_another_optimizer_changes_nothing(saved: Path) -> None:
    model, optimizer = small(AdamW(name="adamw"))
    before = values(model, optimizer)
    with pytest.raises(
        WeightsError,
        match=r"The optimizer in .*iter_1 does not fit 'adamw': \d+ of its \d+ variables are missing "
        r"\(first: optimizer/\d{5}\).*Resume with the optimizer, precision and freeze_backbone of",
    ):
        restore_training(model, optimizer, saved)
    assert_same(values(model, optimizer), before)


# === Damaged files ===


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def garbage(data: bytes) -> bytes:
    return bytes(np.random.default_rng(0).integers(0, 256, len(data), np.uint8))


def one_byte_changed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def unknown_compression(data: bytes) -> bytes:
    """Changes the method of compression in the first entry of the directory at the end."""
    place = data.index(b"PK\x01\x02") + 10
    return data[:place] + b"\x63" + data[place + 1 :]


def empty(data: bytes) -> bytes:
    return b""


def plain_array(data: bytes) -> bytes:
    """A file that NumPy reads, but no archive: one array alone."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(4)


DAMAGES = [truncated, garbage, one_byte_changed, unknown_compression, plain_array, empty]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["weights.npz", "training.npz"])
def test_a_damaged_archive_is_named_and_changes_nothing(
    saved: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    (saved / name).write_bytes(damage((saved / name).read_bytes()))
    model, optimizer = small()
    before = values(model, optimizer)
    with pytest.raises(WeightsError, match=rf"iter_1/{name} is damaged or truncated: .*\. Use an earlier checkpoint\."):
        if name == "weights.npz":
            load_weights(model, saved)
        else:
            restore_training(model, optimizer, saved)
    assert_same(values(model, optimizer), before)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1, 2]", "null", '{"step": 1, "colour": 2}', '{"step": "many"}', '{"step": 1.5}', '{"best_miou": []}'],
)
def test_a_damaged_state_is_named(saved: Path, text: str) -> None:
    (saved / "state.json").write_text(text, "utf-8")
    with pytest.raises(WeightsError, match=r"iter_1/state\.json is damaged: .*Use an earlier checkpoint\."):
        read_state(saved)


def test_a_state_in_another_encoding_is_named(saved: Path) -> None:
    (saved / "state.json").write_bytes(garbage(bytes(100)))
    with pytest.raises(WeightsError, match=r"iter_1/state\.json is damaged"):
        read_state(saved)


def test_the_state_of_an_earlier_version_is_read(saved: Path) -> None:
    state = json.loads((saved / "state.json").read_text("utf-8")) | {"protocol": "seed"}
    (saved / "state.json").write_text(json.dumps(state), "utf-8")
    with pytest.warns(OldKeyWarning):
        assert read_state(saved).protocol == "benchmark"


def test_a_state_with_a_whole_score_is_sound(saved: Path) -> None:
    (saved / "state.json").write_text(json.dumps({"step": 3, "best_miou": 1}), "utf-8")
    assert read_state(saved) == TrainState(step=3, best_miou=1.0)


# === No checkpoint ===


def test_a_folder_that_is_no_checkpoint_gets_a_hint(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = small()
    out = tmp_path / "out"
    with pytest.raises(
        WeightsError,
        match=r"out is not a checkpoint: it does not exist\. A checkpoint is a folder such as output/best_model\.",
    ):
        load_weights(model, out)
    out.mkdir()
    with pytest.raises(WeightsError, match=r"out is not a checkpoint: it has no weights\.npz\. A checkpoint is"):
        load_weights(model, out)
    save_checkpoint(out / "best_model", model, None, STATE, config)
    for read in (lambda: load_weights(model, out), lambda: read_state(out), lambda: config_file(out)):
        with pytest.raises(WeightsError, match=r"out is not a checkpoint: .* Did you mean .*out/best_model\?"):
            read()
    monkeypatch.chdir(out)
    with pytest.raises(WeightsError, match=r"^\. is not a checkpoint: .* Did you mean best_model\?"):
        load_weights(model, Path("."))


def test_an_unfinished_checkpoint_is_no_hint(tmp_path: Path, config: Config, saved: Path) -> None:
    model, _ = small()
    saved.rename(saved.with_name(".iter_1.partial"))
    with pytest.raises(WeightsError, match=r"out is not a checkpoint: it has no weights\.npz\. A checkpoint is a"):
        load_weights(model, saved.parent)


def test_what_a_kill_between_two_renames_leaves_is_named(config: Config, saved: Path) -> None:
    retired = saved.with_name(".iter_1.retired")
    saved.rename(retired)
    model, optimizer = small()
    with pytest.raises(
        WeightsError,
        match=r"iter_1 is not a checkpoint: it does not exist\. .*\.iter_1\.retired; rename it to .*iter_1",
    ):
        load_weights(model, saved)
    load_weights(model, retired)  # it is whole
    save_checkpoint(saved, model, optimizer, TrainState(step=13), config)
    assert [path.name for path in saved.parent.iterdir()] == ["iter_1"]
    assert read_state(saved).step == 13


# === A disk that is full ===


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, writes: int) -> Iterator[None]:
    """Lets so many files reach the disk and none after."""
    fsync, done = os.fsync, list[int]()

    def limited(descriptor: int) -> None:
        if len(done) == writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done.append(descriptor)
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", limited)
        yield
    assert len(done) == writes


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Makes the system refuse to write files beyond `size` bytes, as it does on a full disk: in the middle."""
    resource = pytest.importorskip("resource")  # Python itself ignores SIGXFSZ, so that a write raises OSError
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def assert_refused_and_unharmed(folder: Path, config: Config, guard: Callable[[], object], message: str) -> None:
    """Replaces the checkpoint `folder` under `guard`; that must fail and leave it as it was."""
    model, optimizer = small()
    load_weights(model, folder)
    restore_training(model, optimizer, folder)
    before = values(model, optimizer)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    make_distinct(model, optimizer, start=500)
    with (
        pytest.raises(
            WeightsError,
            match=rf"The checkpoint .*iter_1 could not be written: {message}\. Earlier checkpoints are unharmed",
        ),
        guard(),  # type: ignore[attr-defined]
    ):
        save_checkpoint(folder, model, optimizer, TrainState(step=99), config)

    assert [path.name for path in folder.parent.iterdir()] == ["iter_1"], "a temporary folder was left"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert read_state(folder) == STATE
    load_weights(model, folder)
    restore_training(model, optimizer, folder)
    assert_same(values(model, optimizer), before)


@pytest.mark.parametrize("writes", range(4))
def test_a_full_disk_leaves_the_earlier_checkpoint(
    saved: Path, config: Config, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    assert_refused_and_unharmed(saved, config, lambda: full_disk(monkeypatch, writes), "No space left on device")


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 0.99, 0.9999])
def test_a_write_that_breaks_off_leaves_the_earlier_checkpoint(saved: Path, config: Config, share: float) -> None:
    size = int((saved / "weights.npz").stat().st_size * share)
    assert_refused_and_unharmed(saved, config, lambda: largest_file(size), "File too large")


def test_a_rename_that_fails_puts_the_earlier_checkpoint_back(
    saved: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    @contextmanager
    def second_rename_fails() -> Iterator[None]:
        def limited(self: Path, target: Path) -> Path:
            if self.name == ".iter_1.partial":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", limited)
            yield

    assert_refused_and_unharmed(saved, config, second_rename_fails, "Input/output error")


def test_the_first_checkpoint_of_a_run_on_a_full_disk_leaves_nothing(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = small()
    with pytest.raises(WeightsError, match="No space left on device"), full_disk(monkeypatch, 1):
        save_checkpoint(tmp_path / "out" / "iter_1", model, optimizer, STATE, config)
    assert list((tmp_path / "out").iterdir()) == []


def test_leftovers_of_a_killed_save_are_replaced(config: Config, saved: Path) -> None:
    model, optimizer = small()
    for name in (".iter_1.partial", ".iter_1.retired"):
        (saved.parent / name).mkdir()
        (saved.parent / name / "weights.npz").write_bytes(b"half")
    save_checkpoint(saved, model, optimizer, TrainState(step=2), config)
    assert [path.name for path in saved.parent.iterdir()] == ["iter_1"]
    assert sorted(path.name for path in saved.iterdir()) == FILES
    assert read_state(saved).step == 2


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, config: Config) -> None:
    (tmp_path / "file").write_text("x")
    model, optimizer = small()
    with pytest.raises(WeightsError, match=r"The checkpoint .*iter_1 could not be written: Not a directory") as caught:
        save_checkpoint(tmp_path / "file" / "iter_1", model, optimizer, STATE, config)
    assert caught.value.code == "not-written"


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_second_ctrl_c_while_saving_leaves_the_earlier_checkpoint(
    saved: Path, config: Config, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """In the middle of the arrays, before the earlier one is set aside, and between the two renames."""
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    rename = Path.rename
    left = [renames - 1]

    def interrupted(self: Path, target: Path) -> Path:
        if left[0] == 0:
            left[0] = -1
            raise KeyboardInterrupt
        left[0] -= 1
        return rename(self, target)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    model, optimizer = small()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if renames:
            patch.setattr(Path, "rename", interrupted)
        else:
            patch.setattr(checkpoint, "_write_npz", interrupt)
        save_checkpoint(saved, model, optimizer, TrainState(step=2), config)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_recovery_gives_back_names_and_removes_halves(tmp_path: Path) -> None:
    for name in (
        ".iter_1.retired",
        ".iter_2.retired",
        "iter_2",
        ".iter_3.partial",
        ".best_model.partial",
        ".x.partial",
    ):
        (tmp_path / name).mkdir()
    recover_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.partial", "iter_1", "iter_2"]


def test_a_file_is_told_from_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.keras").touch()
    with pytest.raises(WeightsError, match=r"m\.keras is not a checkpoint: it is a file\..* keras\.saving\.load_model"):
        config_file(tmp_path / "m.keras")
    with pytest.raises(WeightsError, match=r"nothing is not a checkpoint: it does not exist"):
        config_file(str(tmp_path / "nothing"))
