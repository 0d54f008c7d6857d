"""Locks between processes: a file that one of them holds. A process that was killed holds none."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

if TYPE_CHECKING:
    from rsseg_tf.files.paths import StrPath  # which locks by this module

__all__ = ["Held", "hold"]

# Errors of `flock` on file systems without locks: some network shares, FUSE and container mounts.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})


class Held:
    """A lock that this process holds; `release` ends it and removes the lock file."""

    def __init__(self, lock: BaseFileLock) -> None:
        """Takes a lock that was acquired."""
        self._lock = lock

    def release(self) -> None:
        """Gives the lock back; a second call does nothing."""
        if self._lock.is_locked:
            # Before the release: afterwards the name may belong to the next holder.
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def hold(path: StrPath) -> Held | None:
    """Takes a lock without waiting.

    Where the file system has no locks, a file `NAME.soft` is the lock while it exists. Its content names the process; a
    file that a killed process of this machine left behind does not count.

    Args:
        path: The lock file; its folder must exist.

    Returns:
        The lock; None when another process (or another caller in this one) holds it.

    Raises:
        OSError: When the lock file cannot be written.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # filelock warns of its fallback to a soft lock, which is handled below
            lock: BaseFileLock = FileLock(path)
            lock.acquire(timeout=0)
        if not isinstance(lock, SoftFileLock):
            return Held(lock)
        lock.release()
    except Timeout:
        return None
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    path.unlink(missing_ok=True)  # a file that locks nothing here, where only `.soft` counts
    lock = SoftFileLock(path.with_name(path.name + ".soft"))
    try:
        lock.acquire(timeout=0.2)  # time for a second try: the first removes the file of a dead process
    except Timeout:
        return None
    return Held(lock)
