"""Files that are whole or absent: written beside their place, and moved there when they are complete."""

import errno
import glob
import os
import secrets
import time
from contextlib import contextmanager
from pathlib import Path

LEFT_AFTER = 3600  # seconds after which a file that is still unfinished belongs to a process that was killed
# What is wrong with the disk, not with what was to be written.
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@contextmanager
def whole(path):
    """Yield where to write what is to stand at path. It takes path's place when the block has ended without an error, so a file
    that is there stays as it is until a new one is complete, whatever happens meanwhile. Makes missing folders.

    Raises OSError that names path where its disk is full, or its folder must not be written to.
    """
    path = Path(path)
    with disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = beside(path)
        for left in path.parent.glob(f".unfinished-*-{glob.escape(path.name)}"):
            if time.time() - left.stat().st_mtime > LEFT_AFTER:
                left.unlink(missing_ok=True)
        try:
            yield unfinished
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def write_text(path, text):
    """Write text to path, whole or not at all."""
    with whole(path) as unfinished:
        unfinished.write_text(text)


def beside(path):
    """A path for what is not complete yet, in the same folder and of the same kind. Git and DVC ignore the name."""
    return path.with_name(f".unfinished-{secrets.token_hex(4)}-{path.name}")


@contextmanager
def disk_named(path):
    """An error of the disk inside says that path could not be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise
        what = f"{os.strerror(error.errno)}, so this file was not written; one that was there before is as it was"
        raise OSError(error.errno, what, str(path)) from error
