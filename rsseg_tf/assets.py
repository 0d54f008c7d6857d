"""Finds the folders that ship with the package: `configs/`, `export/` and `serving/`.

In a checkout they lie beside the package; in an installed package the build step of `setup.py` has copied them
into `rsseg_tf/_assets`.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from rsseg_tf.errors import ConfigError, address_hint, did_you_mean

__all__ = ["asset_dir", "find_config", "shipped_configs"]

_PACKAGE = Path(__file__).resolve().parent
_YAML = (".yml", ".yaml")


def asset_dir(name: str) -> Path:
    """Returns the folder `name` (`configs`, `export` or `serving`) as shipped.

    Raises:
        ConfigError: When neither the package nor the checkout has it, i.e. the installation is broken.
    """
    for candidate in (_PACKAGE / "_assets" / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise ConfigError(f"The folder '{name}' that ships with rsseg_tf is missing; install the package again.")


def shipped_configs() -> list[str]:
    """Returns the names of all shipped configs that can be trained, e.g. `fcn/fcn_hrnet_w18_dubai_512x512_80k.yml`."""
    root = asset_dir("configs")
    names = (path.relative_to(root).as_posix() for path in root.rglob("*.yml"))
    return sorted(name for name in names if not name.startswith("_base_/"))


def find_config(name: str) -> Path:
    """Returns the path of a config: the file of that path, or else the shipped config of that name.

    Args:
        name: A path, or a shipped name, with or without the leading `configs/` and the final `.yml`.

    Raises:
        ConfigError: When there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = name.removeprefix("./").removeprefix("configs/")
    for candidate in (asset_dir("configs") / shipped, asset_dir("configs") / f"{shipped}.yml"):
        if shipped and candidate.is_file():
            return candidate
    beside = _meant(path)
    if path.is_dir():
        raise ConfigError(f"A config must be a YAML file; {name} is a folder.{beside}")
    hint = beside or did_you_mean(shipped, shipped_configs())
    raise ConfigError(
        f"The config {name} does not exist, neither as a file nor among the shipped ones.{hint} "
        f"`rsseg-tf config list` names all shipped configs.{address_hint(name)}",
        code="not-found",
    )


def _meant(path: Path) -> str:
    """Returns a hint with the config in a folder, or with that beside a missing file whose name is like it."""
    folder = path if path.is_dir() else path.parent
    try:
        names = sorted(one.name for one in folder.iterdir() if one.suffix in _YAML and one.is_file())
    except OSError:
        return ""
    if path.is_dir():
        own = f"{path.absolute().name}.yml"  # as `prepare scenes` calls it
        near = [own] if own in names else names if len(names) == 1 else []
    else:
        near = get_close_matches(path.name, names, n=1) if path.suffix in _YAML else []
    return f" Did you mean '{folder / near[0]}'?" if near else ""
