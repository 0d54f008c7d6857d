"""Files that deploy TensorFlow Serving, filled in for an export.

The files in `serving/` are complete examples for a model called `example_model`, so that they can be read, checked and
tested as they are. This module replaces the example's name, folder and sizes by those of a model.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from rsseg_tf.assets import asset_dir
from rsseg_tf.errors import ConfigError, ExportError, reason
from rsseg_tf.files import atomic_path
from rsseg_tf.manifest import Manifest, read_manifest
from rsseg_tf.serving.versions import check_model_name, version_folders

__all__ = ["FILES", "write_deployment"]

FILES = (
    *("README.md", "compose.yml", "kubernetes.yml", "kustomization.yml", "model_loader.yml"),
    *("models.config", "batching.config", "monitoring.config", "client.py", "client_requests.py", "smoke_test.py"),
)

_EXAMPLE = "example_model"
_EXAMPLE_BATCH, _EXAMPLE_SIZE = 8, (512, 512)
_LARGEST_BATCH = 64
_GB = 1024**3
# A process of TensorFlow, a model that is replaced by its successor while it still runs, and room for activations.
_FIXED_GB, _TIMES_WEIGHTS = 2, 3


def write_deployment(directory: Path, export_dir: Path, name: str | None = None, *, overwrite: bool) -> list[Path]:
    """Writes the files.

    Args:
        directory: Folder to write to; made if missing.
        export_dir: Folder of a model with its versions.
        name: Name of the model; the folder's if None.
        overwrite: Whether files that exist are replaced.

    Returns:
        What was written.

    Raises:
        ConfigError: When a file exists, or the name cannot stand in a URL.
        ExportError: When the export has no manifest.
        ServingError: When it cannot be read.
    """
    export_dir = export_dir.absolute()
    name = check_model_name(name or export_dir.name)
    versions = version_folders(export_dir)
    if not versions:
        raise ExportError(
            f"{export_dir} has no version of a model; versions are subfolders such as {export_dir / '1'}. Make them "
            "with `rsseg-tf export --format savedmodel`."
        )
    newest = max(versions)
    manifest = read_manifest(versions[newest])
    present = [directory / file for file in FILES if (directory / file).exists()]
    if present and not overwrite:
        raise ConfigError(f"{present[0]} exists; choose another folder, or replace it with --overwrite.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{directory} cannot be written: {reason(error)}. Choose another folder.") from error
    for file in FILES:
        text = (asset_dir("serving") / file).read_text("utf-8")
        for before, after in _replacements(file, name, export_dir, versions[newest], manifest):
            # A replacement without effect would deploy the example's size or model.
            if before not in text:
                raise ExportError(
                    f"The shipped {file} lacks {before!r}; this installation is damaged. Install it again."
                )
            text = text.replace(before, after)
        try:
            with atomic_path(directory / file) as temporary:
                temporary.write_text(text, "utf-8")
        except OSError as error:
            raise ConfigError(
                f"{directory / file} cannot be written: {reason(error)}. Make room, or choose another folder."
            ) from error
    return [directory / file for file in FILES]


def _replacements(file: str, name: str, export_dir: Path, version: Path, manifest: Manifest) -> list[tuple[str, str]]:
    """Returns the replacements in a file, in order: (old text, new text)."""
    height, width = manifest.crop_size
    memory = _memory_gb(version)
    changes = {
        "compose.yml": [
            (f"source: ./models/{name}", f"source: {_quoted(str(export_dir))}"),
            ("memory: 4G", f"memory: {memory}G"),
        ],
        "kubernetes.yml": [
            ('requests: {cpu: "2", memory: 2Gi}', f'requests: {{cpu: "2", memory: {max(2, memory // 2)}Gi}}'),
            ('limits: {cpu: "4", memory: 4Gi}', f'limits: {{cpu: "4", memory: {memory}Gi}}'),
        ],
        "model_loader.yml": [
            (f"./models/{name}/1", shlex.quote(str(version))),
            (f"/models/{name}/.1", f"/models/{name}/.{version.name}"),
            (f"/models/{name}/1\n", f"/models/{name}/{version.name}\n"),
        ],
        "models.config": [('key: "stable" value: 1', f'key: "stable" value: {int(version.name)}')],
        "batching.config": [
            ("Sized for 512 x 512 pixels", f"Sized for {width} x {height} pixels"),
            (f"max_batch_size {{ value: {_EXAMPLE_BATCH} }}", f"max_batch_size {{ value: {_batch(height, width)} }}"),
        ],
    }.get(file, [])
    if file in ("batching.config", "monitoring.config", "kustomization.yml"):
        return changes
    return [(_EXAMPLE, name), *changes]  # first, because a path may hold the example's name too


def _quoted(text: str) -> str:
    """Returns a YAML string; compose takes `$` for a variable unless it is doubled."""
    return "'" + text.replace("'", "''").replace("$", "$$") + "'"


def _batch(height: int, width: int) -> int:
    """Returns how many images make as many pixels as the example's batch."""
    pixels = _EXAMPLE_BATCH * _EXAMPLE_SIZE[0] * _EXAMPLE_SIZE[1]
    return max(1, min(_LARGEST_BATCH, pixels // (height * width)))


def _memory_gb(version: Path) -> int:
    """Returns a limit for the memory of a server, from the size of the weights on disk."""
    size = sum(path.stat().st_size for path in (version / "variables").rglob("*") if path.is_file())
    # -(-a // b) rounds up.
    return max(4, _FIXED_GB + -(-_TIMES_WEIGHTS * size // _GB))
