"""Atomic writing: a set of files, or a folder of copies, appears as a whole or not at all.

Every file is written under a temporary name beside its target and synced to disk before the first one is renamed. A
full disk or a missing permission is therefore met while nothing has been replaced yet.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from bertft.errors import BertftError


def require_writable(folder: str | Path) -> None:
    """Raise `BertftError` if files cannot be written to a folder, without creating it. Call it before a long run."""
    folder = Path(folder)
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise unwritable(folder, error) from error


def write_files(folder: str | Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files, given by name, to a folder and return their paths; the folder is created if it does not exist.

    If anything fails, none of the files appears, files of the same names stay as they were, and a folder that was
    created is removed. Raises `BertftError` if the files cannot be written.
    """
    folder = Path(folder)
    created = not folder.exists()
    temporaries: dict[Path, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            if (folder / name).is_dir():
                raise IsADirectoryError(0, f"{name} is a folder there")
            temporary = folder / f".{name}.{os.getpid()}.tmp"
            temporaries[temporary] = folder / name
            with open(temporary, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        for temporary, target in temporaries.items():
            os.replace(temporary, target)
    except BaseException as error:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
        if created and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if isinstance(error, OSError):
            raise unwritable(folder, error) from error
        raise
    return list(temporaries.values())


def copy_files(files: Iterable[Path], folder: Path) -> None:
    """Copy files to a folder, which takes the place of one of that name; its parent must exist.

    If anything fails, a folder of that name stays as it was. Raises `BertftError` if the files cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        # A process that was killed may have left one.
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for file in files:
            shutil.copyfile(file, temporary / file.name)
            with (temporary / file.name).open("rb+") as stream:
                os.fsync(stream.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise unwritable(folder.parent, error) from error
        raise


def unwritable(folder: Path, error: Exception) -> BertftError:
    """Return the error to raise for a folder to which files cannot be written."""
    reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
    return BertftError(f"{folder}: cannot write there: {reason}; free space or name another folder")
