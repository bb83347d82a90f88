"""Sets of files put in a folder whole or not at all.

All temporaries are written and synced next to their targets before the first is renamed, so a full disk or a
permission denied is met while nothing has been replaced yet.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bertft.errors import BertftError


def require_writable(folder: str | Path) -> None:
    """Raise `BertftError` where files could not be written to a folder, without making it: ask before a long run."""
    folder = Path(folder)
    try:
        nearest = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise unwritable(folder, error) from error


def write_files(folder: str | Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write named files to a folder, made if need be; on any failure none of them appears and old ones stay."""
    folder = Path(folder)
    made = not folder.exists()
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
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if isinstance(error, OSError):
            raise unwritable(folder, error) from error
        raise
    return list(temporaries.values())


def unwritable(folder: Path, error: OSError) -> BertftError:
    """Return the error for a folder that cannot take files."""
    reason = error.strerror or str(error)
    return BertftError(f"{folder}: cannot write there: {reason}; free space or name another folder")
