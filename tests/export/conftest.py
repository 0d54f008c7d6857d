from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rsseg_tf.config import Config
from rsseg_tf.export import TrainedModel, load_trained
from tests.fixtures.checkpoints import write_checkpoint
from tests.fixtures.configs import use_tiny_backbone


@pytest.fixture(scope="session")
def checkpoint_and_config(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    return write_checkpoint(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def checkpoint(checkpoint_and_config: tuple[Path, Config]) -> Path:
    return checkpoint_and_config[0]


@pytest.fixture(autouse=True)
def tiny_backbone() -> Iterator[None]:
    """Checkpoints are loaded with the backbone that they were written with."""
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        yield


@pytest.fixture(scope="session")
def trained(checkpoint: Path) -> TrainedModel:
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        return load_trained(checkpoint)
