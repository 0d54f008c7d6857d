"""What is tortured: training, prediction, preparing and exporting, each as small as it can be.

A command writes below a folder, next to what belongs to somebody else. `again` is what a user does after a kill or a
full disk: the same command, or its way to resume. All of it runs in forked children, see `faults`.
"""

from __future__ import annotations

import abc
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

__all__ = ["COMMANDS", "LIMITS", "Command", "WrongError"]

# Points in a test run; see `figures.asked` for more of them.
LIMITS = {
    "train": 3,
    "train --overwrite": 2,
    "predict": 8,
    "prepare": 12,
    "prepare over an earlier output": 8,
    "prepare scenes": 6,
    "export": 2,
}

_FOREIGN = ("notes.txt", ".out.mine.tmp/kept", ".mine.partial/kept")


class WrongError(Exception):
    """What a command left is not what it should be."""


class Command(abc.ABC):
    """A command and what must be true after it.

    Attributes:
        name: for the table.
    """

    name: ClassVar[str]

    def lay_out(self, case: Path) -> None:
        """Puts what belongs to somebody else around the output."""
        for foreign in _FOREIGN:
            path = case / foreign
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("mine", "utf-8")

    @abc.abstractmethod
    def make_input(self, base: Path) -> None:
        """Writes what the command reads into `base`, once."""

    @abc.abstractmethod
    def run(self, base: Path, case: Path) -> None:
        """Runs the command for the first time, output to `case/out`."""

    @abc.abstractmethod
    def again(self, base: Path, case: Path) -> None:
        """Runs it again after something went wrong."""

    @abc.abstractmethod
    def require_whole(self, base: Path, case: Path) -> None:
        """Raises `WrongError` if anything that has its final name is not whole."""

    @abc.abstractmethod
    def require_result(self, reference: Path, case: Path) -> None:
        """Raises `WrongError` if the result is not that of the undisturbed run in `reference`."""

    def check_after_fault(self, base: Path, case: Path) -> None:
        """Checks what a fault has left, before anything mends it."""
        self._require_foreign(case)
        self.require_whole(base, case)

    def check_in_the_end(self, reference: Path, case: Path) -> None:
        """Checks the result, what belongs to others, and that nothing is left over."""
        self._require_foreign(case)
        left = sorted(
            str(path.relative_to(case))
            for path in case.rglob("*")
            if path.is_file() and path.relative_to(case).as_posix() not in _FOREIGN
            and any(part.startswith(".") for part in path.relative_to(case).parts)
            and path.name not in (".prepared", ".predicted.jsonl")
        )  # fmt: skip
        if left:
            raise WrongError(f"left over: {', '.join(left[:3])}")
        self.require_result(reference, case)

    def _require_foreign(self, case: Path) -> None:
        gone = [name for name in _FOREIGN if not (case / name).is_file()]
        if gone:
            raise WrongError(f"removed: {gone[0]}, which is somebody else's")


def _require_equal(one: Path, other: Path) -> None:
    """Compares two folders file by file; archives of arrays by their arrays."""
    left, right = _content(one), _content(other)
    for name in sorted(left.keys() | right.keys()):
        if name not in left or name not in right:
            raise WrongError(f"{name} is {'missing' if name not in right else 'too much'}")
        if left[name] != right[name]:
            raise WrongError(f"{name} differs from the undisturbed run's")


def _content(folder: Path) -> dict[str, Any]:
    """Returns what is in a folder; the record that a resumed prediction reads names the run's own folder."""
    return {
        str(path.relative_to(folder)): _digest(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".predicted.jsonl"
    }


def _digest(path: Path) -> Any:
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return {name: hashlib.sha256(archive[name].tobytes()).hexdigest() for name in archive.files}
    if path.suffix == ".tif":
        import rasterio

        with rasterio.open(path) as source:
            return source.profile["transform"], str(source.crs), hashlib.sha256(source.read().tobytes()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


# === Training ===


class Train(Command):
    """Four steps with evaluations, of which two checkpoints and the best model are kept."""

    name = "train"
    _seed = 3

    def make_input(self, base: Path) -> None:
        from tests.fixtures.configs import write_config, write_dataset

        write_config(base / "tiny.yml", write_dataset(base / "data", size=32))

    def run(self, base: Path, case: Path) -> None:
        self._train(base, case)

    def again(self, base: Path, case: Path) -> None:
        from rsseg_tf.errors import ConfigError
        from rsseg_tf.training.folder import checkpoints

        found = checkpoints(case / "out")
        try:
            self._train(base, case, resume=found[-1] if found else None)
        except ConfigError as error:
            if "nothing is left to do" not in str(error):
                raise

    def require_whole(self, base: Path, case: Path) -> None:
        from rsseg_tf.checkpoint import read_state, read_weights
        from rsseg_tf.training.folder import checkpoints

        out = case / "out"
        for folder in [*checkpoints(out), *(p for p in [out / "best_model"] if p.exists())]:
            read_weights(folder)
            read_state(folder)

    def require_result(self, reference: Path, case: Path) -> None:
        from rsseg_tf.checkpoint import read_state

        for name in ("iter_4", "best_model"):
            _require_equal(reference / "out" / name, case / "out" / name)
        state, best = read_state(case / "out" / "iter_4"), read_state(case / "out" / "best_model")
        if (state.best_step, state.best_miou) != (best.step, best.best_miou):
            raise WrongError("best_model is not what the state claims")
        others = {path.name for path in (case / "out").iterdir()} - {"iter_2", "iter_3", "iter_4", "best_model"}
        if others:
            raise WrongError(f"left over: {', '.join(sorted(others))}")

    def _train(self, base: Path, case: Path, *, seed: int = 3, iters: int = 4, **options: Any) -> None:
        from rsseg_tf.config import load_config
        from rsseg_tf.training import train
        from tests.fixtures.configs import samples, use_tiny_backbone

        use_tiny_backbone(pytest.MonkeyPatch())  # for the rest of this process
        config = load_config(
            base / "tiny.yml",
            [f"train.seed={seed}", f"train.iters={iters}", "train.save_interval=2", "train.keep_checkpoint_max=1",
             "train.batch_size=2", "train.deterministic=true", "data.workers=1", "lr_schedule.learning_rate=0.3"],
        )  # fmt: skip
        train(config, case / "out", samples(config, "train"), samples(config, "val"), **options)


class TrainOver(Train):
    """The same over an earlier run, with `overwrite`: that one is whole until the new one has a checkpoint."""

    name = "train --overwrite"

    def make_input(self, base: Path) -> None:
        super().make_input(base)
        self._train(base, base / "before", seed=5, iters=3)

    def lay_out(self, case: Path) -> None:
        super().lay_out(case)
        shutil.copytree(case.parent / "input" / "before" / "out", case / "out")

    def run(self, base: Path, case: Path) -> None:
        self._train(base, case, overwrite=True)

    def again(self, base: Path, case: Path) -> None:
        from rsseg_tf.training.folder import checkpoints

        if any(path.name != "iter_3" for path in checkpoints(case / "out")):
            super().again(base, case)
        else:
            self.run(base, case)

    def require_whole(self, base: Path, case: Path) -> None:
        from rsseg_tf.training.folder import checkpoints, open_run

        super().require_whole(base, case)
        if checkpoints(case / "out"):
            return
        with open_run(case / "out", resume=case / "out" / "iter_3", overwrite=False):
            pass  # it brings back what was set aside
        _require_equal(base / "before" / "out", case / "out")


# === Prediction ===


class Predict(Command):
    """Three images with all products, saved row by row, then resumed."""

    name = "predict"

    def make_input(self, base: Path) -> None:
        from tests.fixtures.scenes import noise, write_scene

        for i in range(3):
            write_scene(base / f"scene_{i}.tif", noise(300 if i == 1 else 40, 40, seed=i))

    def run(self, base: Path, case: Path) -> None:
        self._predict(base, case, resume=False)

    def again(self, base: Path, case: Path) -> None:
        self._predict(base, case, resume=True)

    def _predict(self, base: Path, case: Path, *, resume: bool) -> None:
        from rsseg_tf.errors import DataError
        from rsseg_tf.predict import InferenceOptions, OutputOptions, SceneOptions, writing
        from rsseg_tf.rasters.windows import Size
        from tests.fixtures.scenes import SPEC, pointwise, predict_files

        writing._CHECKPOINT_S = 0.0
        results = predict_files(
            sorted(base.glob("scene_*.tif")), pointwise, SPEC, case / "out",
            InferenceOptions(is_slide=True, crop_size=Size(32, 32), stride=Size(24, 24), blend="cosine"),
            scenes=SceneOptions(resume=resume),
            output=OutputOptions(confidence=True, vector="geojson"),
        )  # fmt: skip
        for result in results:
            if not result.ok:
                raise DataError(f"{result.error}")

    def require_whole(self, base: Path, case: Path) -> None:
        for path in (case / "out").rglob("*"):
            if not path.is_file() or any(part.startswith(".") for part in path.relative_to(case).parts):
                continue
            if path.suffix == ".geojson":
                json.loads(path.read_text("utf-8"))
            elif path.suffix in (".tif", ".png"):
                import rasterio

                with rasterio.open(path) as source:
                    source.read()

    def require_result(self, reference: Path, case: Path) -> None:
        names = {path.name for path in reference.rglob("*") if path.is_file()}
        if not any(name.endswith(".geojson") for name in names):
            raise WrongError(f"the undisturbed run has no polygons: {names}")
        _require_equal(reference / "out", case / "out")


# === Preparing ===


class Prepare(Command):
    """Four scenes cut into tiles."""

    name = "prepare"

    def make_input(self, base: Path) -> None:
        from tests.fixtures.downloads import potsdam

        potsdam(base / "download", ("2_10", "2_11", "2_13", "2_14"), (40, 60))

    def run(self, base: Path, case: Path) -> None:
        self._prepare(base, case / "out", 32)

    def again(self, base: Path, case: Path) -> None:
        self.run(base, case)

    def _prepare(self, base: Path, output: Path, tile_size: int) -> None:
        from rsseg_tf.prepare.run import PrepareOptions, prepare_dataset

        prepare_dataset("potsdam", base / "download", output, PrepareOptions(tile_size=tile_size, workers=1))

    def require_whole(self, base: Path, case: Path) -> None:
        from rsseg_tf.files.lists import read_list

        out = case / "out"
        if out.exists():
            for split in ("train", "val"):
                read_list(out / f"{split}.txt", out)

    def require_result(self, reference: Path, case: Path) -> None:
        _require_equal(reference / "out", case / "out")


class PrepareOver(Prepare):
    """The same in the place of an earlier output, of other tiles."""

    name = "prepare over an earlier output"

    def make_input(self, base: Path) -> None:
        super().make_input(base)
        self._prepare(base, base / "before", 64)

    def lay_out(self, case: Path) -> None:
        super().lay_out(case)
        shutil.copytree(case.parent / "input" / "before", case / "out")


class PrepareScenes(Prepare):
    """A user's scene and polygons cut into tiles, with the config to train with."""

    name = "prepare scenes"

    def make_input(self, base: Path) -> None:
        from tests.fixtures.own_scenes import houses, scene, write_polygons

        base.mkdir(parents=True, exist_ok=True)
        scene(base / "ortho.tif", (100, 120))
        write_polygons(base / "labels.gpkg", houses(20, (100, 120)))

    def _prepare(self, base: Path, output: Path, tile_size: int) -> None:
        from rsseg_tf.prepare.scenes.run import ScenesOptions, prepare_scenes

        options = ScenesOptions(tile_size=tile_size, workers=1, buffer_m=1.0)
        prepare_scenes([base / "ortho.tif"], [base / "labels.gpkg"], output, options)


# === Export ===


class Export(Command):
    """A SavedModel and a TFLite file, with a version there before."""

    name = "export"

    def lay_out(self, case: Path) -> None:
        (case / "out").mkdir(parents=True)
        shutil.copytree(case.parent / "input" / "before" / "out" / "1", case / "out" / "1")
        super().lay_out(case)

    def make_input(self, base: Path) -> None:
        from rsseg_tf import build_model
        from rsseg_tf.checkpoint import TrainState, save_checkpoint
        from tests.fixtures.checkpoints import lively
        from tests.fixtures.configs import tiny_config, use_tiny_backbone

        use_tiny_backbone(pytest.MonkeyPatch())  # for the rest of this process
        config = tiny_config(base)
        save_checkpoint(base / "best_model", lively(build_model(config)), None, TrainState(step=7), config)
        self.run(base, base / "before")

    def run(self, base: Path, case: Path) -> None:
        from rsseg_tf.export import ExportOptions, export_model, load_trained
        from rsseg_tf.rasters.windows import Size
        from tests.fixtures.configs import use_tiny_backbone

        use_tiny_backbone(pytest.MonkeyPatch())  # for the rest of this process
        options = ExportOptions(("savedmodel", "tflite"), tile=Size(32, 32))
        export_model(load_trained(base / "best_model"), case / "out", options)

    def again(self, base: Path, case: Path) -> None:
        self.run(base, case)

    def require_whole(self, base: Path, case: Path) -> None:
        from rsseg_tf.manifest import changed_files, read_manifest

        for version in (path for path in (case / "out").iterdir() if path.name.isdecimal()):
            for artifact in read_manifest(version).artifacts:
                if changed := changed_files(version, artifact):
                    raise WrongError(f"{version.name}/{changed[0]} is not what the manifest says")

    def require_result(self, reference: Path, case: Path) -> None:
        self.require_whole(reference, case)
        _require_equal(case.parent / "input" / "before" / "out" / "1", case / "out" / "1")
        wanted = sorted(_content(reference / "out" / "2"))
        for version in sorted(path.name for path in (case / "out").iterdir() if path.name != "1"):
            if sorted(_content(case / "out" / version)) != wanted:
                raise WrongError(f"version {version} has other files than that of the undisturbed run")
        if not (case / "out" / "2").is_dir():
            raise WrongError("no version was published")


COMMANDS = {one.name: one for one in (Train, TrainOver, Predict, Prepare, PrepareOver, PrepareScenes, Export)}
