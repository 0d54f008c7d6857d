"""Tells a config of PaddleSeg from one of ours, for the message that names the command which turns it into one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

__all__ = ["paddleseg_hint"]

# Sections that PaddleSeg's configs have and ours never have.
_SECTIONS = re.compile(r"^(train_dataset|val_dataset|lr_scheduler|test_config|_base_)[ \t]*:", re.MULTILINE)


def paddleseg_hint(path: Path, text: str) -> str | None:
    """Returns a line with the command that imports a config of PaddleSeg; None for any other file.

    Args:
        path: The file.
        text: What is in it.
    """
    if _SECTIONS.search(text) is None:
        return None
    target = Path(f"{path.stem}_rsseg.yml")  # in the working directory, from which relative paths count
    command = shlex.join(["rsseg-tf", "config", "import", str(path), "-o", str(target)])
    return f"{path} is a config of PaddleSeg. Type: {command}; and name {shlex.quote(str(target))} instead."
