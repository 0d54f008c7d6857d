"""Where a run may go on, and what becomes of the best model there.

Most tests take no steps: they do with the folder of a run what the loop does with it.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from rsseg_tf.checkpoint import TrainState, check_resumable, read_state
from rsseg_tf.config import Config
from rsseg_tf.errors import ConfigError, WeightsError
from rsseg_tf.training import segmentation, train
from rsseg_tf.training.folder import RunFolder, open_run
from tests.fixtures.configs import samples, tiny_config, use_tiny_backbone
from tests.fixtures.training import assert_equal_weights


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny_config(tmp_path)


class Run:
    """A run whose steps change one weight, and whose scores are given."""

    def __init__(self, out: Path, config: Config) -> None:
        self.out, self.config, self.lines = out, config, list[str]()
        self.model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        self.optimizer = keras.optimizers.SGD(momentum=0.9)
        self.optimizer.build(self.model.trainable_variables)

    @contextlib.contextmanager
    def _open(self, resume: Path | None, **options: object) -> Iterator[RunFolder]:
        with open_run(
            self.out,
            resume=resume,
            overwrite=False,
            notify=self.lines.append,
            **options,  # type: ignore[arg-type]
        ) as folder:
            yield folder

    def __call__(
        self, *scores: float | None, resume: Path | None = None, protocol: str = "benchmark", val: int = 2
    ) -> TrainState:
        """Takes a step for each score; None stands for no evaluation. Returns the state at the end."""
        config = self.config.model_copy(update={"eval": self.config.eval.model_copy(update={"protocol": protocol})})
        validation = segmentation._validation(config, list(samples(config, "val"))[:val])
        scored = any(score is not None for score in scores)
        with self._open(resume) as folder:
            state = TrainState(protocol=protocol, validation=validation)
            if resume is not None:
                state = segmentation._state_to_resume(
                    config, resume, validation if scored else "", notify=self.lines.append
                )
            state = folder.begin(self.model, self.optimizer, config, state, scored=scored)
            for score in scores:
                self.model.weights[0].assign([[np.random.default_rng(state.step).uniform()]])
                state = TrainState(**{**vars(state), "step": state.step + 1})
                folder.save(state)
                if score is not None:
                    state, improved = segmentation._with_score(state, score)
                    if improved:
                        folder.save_best(state)
                    folder.save_score(state)
        return state

    def refused(self, iters: int = 100) -> str:
        """Returns why a new run may not write to the folder."""
        with pytest.raises(ConfigError, match="of an earlier run") as error, self._open(None, iters=iters):
            pass
        return str(error.value)


@pytest.fixture
def run(out: Path, config: Config) -> Run:
    return Run(out, config)


@pytest.fixture
def branch(run: Run) -> Run:
    """A folder with iter_1 (mIoU 0.3), iter_2 and the best one, iter_3 (0.8)."""
    run(0.3, 0.2, 0.8)
    return run


def copied(run: Run, name: str) -> Run:
    """Returns a run in a copy of the folder."""
    copy = run.out.with_name(name.replace(" ", "_"))
    shutil.copytree(run.out, copy)
    return Run(copy, run.config)


def best(run: Run) -> tuple[float, int]:
    state = read_state(run.out / "best_model")
    return state.best_miou, state.step


# === The hint after a refused folder ===


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGES = {
    "no optimizer": lambda folder: (folder / "training.npz").unlink(),
    "no weights": lambda folder: (folder / "weights.npz").unlink(),
    "no state": lambda folder: (folder / "state.json").unlink(),
    "half an optimizer": lambda folder: truncate(folder / "training.npz"),
    "half the weights": lambda folder: truncate(folder / "weights.npz"),
    "half a state": lambda folder: truncate(folder / "state.json"),
    "nothing": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "a file": lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
}


def named(message: str) -> Path:
    found = re.search(r"--resume_model (\S+?)[, ]", message)
    assert found, message
    return Path(found[1])


def test_the_folder_that_a_refused_one_names_can_be_resumed(run: Run) -> None:
    run(None, None, None)
    assert run.refused() == (
        f"--save_dir {run.out} holds iter_3 of an earlier run. Go on from it with --resume_model {run.out}/iter_3, "
        "choose another folder, or replace it with --overwrite."
    )
    assert f"--resume_model {run.out}/iter_3 and --iters above 3, choose" in run.refused(iters=3)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_refused_folder_with_a_damaged_checkpoint_names_one_before(damage: str, run: Run) -> None:
    run(None, None, None)
    DAMAGES[damage](run.out / "iter_3")
    message = run.refused()
    assert "holds iter_3 of an earlier run that cannot be resumed (" in message
    assert "Go on from iter_2, the last that is whole, with" in message and named(message) == run.out / "iter_2"
    assert check_resumable(named(message)).step == 2
    with pytest.raises(WeightsError):
        check_resumable(run.out / "iter_3")


def test_a_run_goes_on_from_where_the_message_says(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    config = tiny_config(out.parent, "train.save_interval=1", "train.iters=2")
    train(config, out, samples(config, "train"))
    truncate(out / "iter_2" / "training.npz")
    with pytest.raises(ConfigError) as error:
        train(config, out, samples(config, "train"))
    assert train(config, out, samples(config, "train"), resume=named(str(error.value))).state.step == 2


def test_a_folder_without_anything_to_resume_names_nothing(run: Run) -> None:
    run(0.5)
    DAMAGES["no optimizer"](run.out / "iter_1")
    assert "that cannot be resumed (" in run.refused() and "--resume_model" not in run.refused()
    shutil.rmtree(run.out / "iter_1")
    assert run.refused() == (
        f"--save_dir {run.out} holds best_model of an earlier run. Choose another folder, or replace it with "
        "--overwrite."
    )
    with pytest.raises(WeightsError, match="holds weights only"):
        check_resumable(run.out / "best_model")


# === The best model of a run that goes on from an older checkpoint ===


def test_a_better_one_stays(branch: Run) -> None:
    branch(0.7, resume=branch.out / "iter_1")
    (line,) = branch.lines
    assert "best_model (mIoU 0.8000, iter 3) is better" in line and "stays" in line
    assert best(branch) == (0.8, 3)


def test_a_better_one_stays_beside_a_checkpoint_that_was_never_scored(run: Run) -> None:
    run(None, 0.8)
    run(0.7, resume=run.out / "iter_1")
    assert "stays" in run.lines[0] and best(run) == (0.8, 2)


def test_the_next_best_stays_where_the_best_is_lost(branch: Run) -> None:
    later = copied(branch, "later")
    later(0.9, 0.5, resume=later.out / "iter_3")  # iter_4 is the best one
    shutil.copytree(later.out / "iter_5", branch.out / "iter_5")
    branch(0.4, resume=branch.out / "iter_5")
    assert branch.lines == [
        f"The model of the best mIoU so far, 0.9000 at iter 4, is nowhere in {branch.out}; {branch.out}/best_model "
        "(mIoU 0.8000, iter 3) stays until a better one is found."
    ]
    assert best(branch) == (0.8, 3)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"protocol": "stitched"}, "counted by protocol benchmark; from here on stitched counts"),
        ({"val": 1}, "counted on other validation images; from here on these count"),
    ],
    ids=["protocol", "images"],
)
def test_one_whose_score_cannot_be_compared_is_replaced_with_a_line(
    changed: dict[str, object], what: str, branch: Run
) -> None:
    branch(0.5, resume=branch.out / "iter_1", **changed)  # type: ignore[arg-type]
    assert what in branch.lines[0] and branch.lines[1:] == [
        f"{branch.out}/best_model (mIoU 0.8000 by protocol benchmark, iter 3) will be replaced by the first model that "
        "is evaluated; copy it elsewhere to keep it."
    ]
    assert best(branch) == (0.5, 2)
    branch.lines.clear()
    branch(0.4, resume=branch.out / "iter_2", **changed)  # type: ignore[arg-type]
    assert branch.lines == [] and best(branch) == (0.5, 2), "the new scores are compared with each other"


@pytest.mark.parametrize("name", ["weights.npz", "state.json"])
@pytest.mark.parametrize("known", [True, False], ids=["scored", "unscored"])
def test_a_damaged_one_is_replaced_with_a_line(name: str, known: bool, run: Run) -> None:
    run(0.3 if known else None, 0.8)
    truncate(run.out / "best_model" / name)
    run(0.2, resume=run.out / "iter_1")
    (line,) = run.lines
    if known:
        assert "(its weights or score cannot be read) did not hold the model of mIoU 0.3000" in line
        assert best(run) == (0.3, 1)
        assert_equal_weights(run.out / "best_model", run.out / "iter_1")
    else:
        assert "(its weights or score cannot be read) will be replaced" in line and best(run) == (0.2, 2)


def test_a_moved_dataset_has_the_same_validation_images(branch: Run, tmp_path: Path) -> None:
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    dataset = branch.config.dataset.model_copy(update={"root": str(tmp_path / "elsewhere")})
    moved = Run(branch.out, branch.config.model_copy(update={"dataset": dataset}))
    moved(0.7, resume=branch.out / "iter_1")
    assert len(moved.lines) == 1 and "stays" in moved.lines[0]


def test_checkpoints_of_earlier_versions_do_not_name_their_validation_images(branch: Run) -> None:
    for state in branch.out.glob("*/state.json"):
        text = state.read_text()
        state.write_text(re.sub(r'\s*"validation": "\w+",', "", text))
        assert state.read_text() != text
    branch(0.7, resume=branch.out / "iter_1")
    assert len(branch.lines) == 1 and "stays" in branch.lines[0] and best(branch) == (0.8, 3)
