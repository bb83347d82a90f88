"""What other people wrote: opening a file, parsing JSON, showing text, and saying what was wrong with it.

A file can be a pipe that never ends, JSON can be nested a million times deep, a name can hold escape sequences of a
terminal. These functions turn all of that into one kind of error, or into harmless text.
"""

from __future__ import annotations

import json
import os
import stat
import unicodedata
from pathlib import Path
from typing import Any

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories of characters that are not shown as themselves: control, format, surrogate, unassigned, breaks."""


def read_bytes(path: str | Path) -> bytes:
    """Return the content of a regular file.

    Raises `OSError` for anything else. A pipe or a device is refused and not waited for.
    """
    with open(path, "rb", opener=_open_regular) as stream:
        return stream.read()


def _open_regular(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a pipe waits for a writer. Windows has neither the flag nor such pipes.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, "Is a directory", os.fspath(path))
        if not stat.S_ISREG(mode):
            raise OSError(22, "Not a regular file", os.fspath(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def parse_json(text: str | bytes) -> Any:
    """Return the value that JSON text stands for; raise `ValueError`, with a reason of a few words, for all other text.

    >>> parse_json('{"layers": 12}')
    {'layers': 12}
    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    ...
    ValueError: nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except ValueError:
        # The only other cause: Python converts no whole number of more than 4,300 digits.
        raise ValueError("a number with too many digits") from None


def read_json(path: str | Path) -> Any:
    """Return the value in a JSON file; raise `OSError` where it cannot be read, `ValueError` where it is no JSON."""
    return parse_json(read_bytes(path))


def reason(error: Exception) -> str:
    """Return in one line why a file, or a record that was read from one, cannot be used, without the path.

    >>> reason(FileNotFoundError(2, "No such file", "a.json")), reason(KeyError("rows"))
    ('No such file', 'parts of it are missing')
    """
    if isinstance(error, LookupError | TypeError | AttributeError):
        return "parts of it are missing"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return getattr(error, "strerror", None) or next(iter(lines), type(error).__name__)


def shown(text: object) -> str:
    """Return text in which every character that a terminal would obey, or not show, is written as an escape.

    Letters, marks, symbols and spaces of all scripts stay as they are, and so do line breaks and tabs.

    >>> shown("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    given = str(text)
    if given.isprintable():
        return given
    return "".join(_escaped(char) for char in given)


def _escaped(char: str) -> str:
    if char.isprintable() or char in "\n\t" or unicodedata.category(char) not in _HIDDEN:
        return char
    # Joiners are part of words in some scripts, and of emoji.
    return char if char in "\u200c\u200d" else char.encode("unicode_escape").decode("ascii")
