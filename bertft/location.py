"""Where a checkpoint is: a local folder, or a name on the hub.

Nothing heavy is imported here, so that the command line can tell a wrong path at once.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

from bertft.errors import CheckpointError
from bertft.untrusted import reason

_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")


def local_folder(source: str | Path) -> Path | None:
    """Return the folder of a path, or None for what may be a name on the hub.

    Raises `CheckpointError` for a file, for a path to nothing, and for one that the system refuses.

    >>> local_folder("google/bert_uncased_L-2_H-128_A-2") is None
    True
    >>> local_folder("no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    bertft.errors.CheckpointError: no/such/folder: no such folder; ...
    """
    try:
        folder = Path(source).expanduser()
        mode = folder.stat().st_mode
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RuntimeError) as error:  # such as a name too long, or ~ of an unknown user
        raise CheckpointError(f"{source}: cannot be opened ({reason(error)}); give the folder of a model") from None
    else:
        if stat.S_ISDIR(mode):
            return folder
        raise CheckpointError(f"{source}: a file, not a model folder; give the folder that contains config.json")
    if isinstance(source, Path) or not _HUB_NAME.fullmatch(source):
        raise CheckpointError(f"{source}: no such folder; give the folder of a model, or a hub name")
    return None
