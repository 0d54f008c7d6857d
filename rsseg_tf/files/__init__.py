"""Files and folders: writes that are whole or not at all, locks, walks, list files, archives, downloads."""

from rsseg_tf.files.locks import Held, hold
from rsseg_tf.files.paths import StrPath, readable_name, several
from rsseg_tf.files.reading import read_json
from rsseg_tf.files.walking import walk_files
from rsseg_tf.files.writing import (
    SIDE_SUFFIX,
    atomic_folder,
    atomic_path,
    remove_file,
    remove_leftovers,
    replace_file,
    short_stem,
)

__all__ = [
    "SIDE_SUFFIX",
    "Held",
    "StrPath",
    "atomic_folder",
    "atomic_path",
    "hold",
    "read_json",
    "readable_name",
    "remove_file",
    "remove_leftovers",
    "replace_file",
    "several",
    "short_stem",
    "walk_files",
]
