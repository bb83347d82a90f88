"""Data files as numbered lines of text; files that are not UTF-8 text are refused."""

from __future__ import annotations

import hashlib
import os
import reprlib
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bertft.errors import DataError
from bertft.untrusted import reason

_WANTED = "a UTF-8 file of one sentence a line, or CoNLL-U (.conllu), MNLI (.jsonl) or SQuAD (.json)"

_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxdict, _BRIEF.maxlist, _BRIEF.maxstring, _BRIEF.maxlong = 4, 20, 20, 100, 60

# First bytes of files that are often given by mistake.
_SIGNATURES = {
    b"\x1f\x8b": "a gzip archive: unpack it first (gunzip)",
    b"PK\x03\x04": "a zip archive: unpack it first (unzip)",
    b"BZh": "a bzip2 archive: unpack it first (bunzip2)",
    b"\x28\xb5\x2f\xfd": "a zstandard archive: unpack it first (unzstd)",
    b"\xfd7zXZ": "an xz archive: unpack it first (unxz)",
    b"PAR1": "a Parquet table: write its text column out, one sentence a line",
    b"%PDF": "a PDF document: extract its text first",
    b"\xff\xfe": "UTF-16 text: convert it (iconv -f UTF-16 -t UTF-8)",
    b"\xfe\xff": "UTF-16 text: convert it (iconv -f UTF-16 -t UTF-8)",
}


@dataclass(frozen=True)
class TextFile:
    """A decoded file: its path, its full text, and the sha256 of its bytes.

    >>> TextFile(Path("rain.txt"), "It rains.\\nIt pours.", "0f").lines
    ['It rains.', 'It pours.']
    """

    path: Path
    text: str
    content_hash: str

    @cached_property
    def lines(self) -> list[str]:
        """The lines without their line ends, which are LF, CR LF or CR."""
        # str.splitlines would also split inside sentences, for example at U+2028 and form feeds.
        return self.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")

    def where(self, number: int) -> str:
        """Return the location `name:line` of line `number`, counted from 1."""
        return f"{self.path.name}:{number}"

    def error(self, number: int, problem: str) -> DataError:
        """Return an error for line `number`, counted from 1, with the full path."""
        return DataError(f"{self.path}:{number}: {problem}")


def read_text_file(path: str | Path, wanted: str = _WANTED) -> TextFile:
    """Read a UTF-8 file without its byte-order mark; raise `DataError` for any other file.

    `wanted` describes in messages which file to give instead.

    >>> read_text_file("no/such/file.txt")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    bertft.errors.DataError: no/such/file.txt: no such file; give a UTF-8 file of one sentence a line, ...
    """
    path = check_exists(path, wanted)
    try:
        content = _content(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}); give {wanted}") from None
    if not content.strip():
        raise DataError(f"{path}: the file is empty; give {wanted}")
    for signature, found in _SIGNATURES.items():
        if content.startswith(signature):
            raise DataError(f"{path}: not UTF-8 text but {found}")
    if (offset := content.find(b"\0")) >= 0:
        raise DataError(f"{path}:{_line_of(content, offset)}: not text: a NUL byte at offset {offset}; give {wanted}")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{_line_of(content, error.start)}: not UTF-8: byte 0x{content[error.start]:02x} at offset "
            f"{error.start}; convert the file from its encoding (for example iconv -f ISO-8859-1 -t UTF-8)"
        ) from None
    return TextFile(path, text.removeprefix("\ufeff"), hashlib.sha256(content).hexdigest())


def brief(value: Any) -> str:
    """Return a value from a file as at most 60 characters of Python, however long or deeply nested it is.

    >>> brief(["a", 3]), len(brief("a" * 1000))
    ("['a', 3]", 60)
    """
    return _BRIEF.repr(value)[:60]


def field_names(record: Iterable[str]) -> str:
    """Return the names of the fields of a record on one line, for a message.

    >>> field_names({"text": 1, "new\\nline": 2})
    'text, new\\\\nline'
    """
    return repr(", ".join(record))[1:-1][:200] or "(none)"


def local_path(source: str | Path) -> Path:
    """Return a path with `~` in full; raise `DataError` for one that the system refuses, such as a name too long.

    A path to nothing is returned too.
    """
    try:
        path = Path(source).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~ of an unknown user
        raise DataError(f"{source}: cannot be read ({reason(error)}); give the path of a file") from None
    return path


def check_exists(source: str | Path, wanted: str = _WANTED) -> Path:
    """Return the path of a file or a pipe with `~` in full; raise `DataError` where there is none."""
    path = local_path(source)
    if not path.exists():
        raise DataError(f"{path}: no such file; give {wanted}")
    if path.is_dir():
        raise DataError(f"{path}: a folder, not a file; give {wanted}")
    return path


def _content(path: Path) -> bytes:
    """Return the bytes of a file or a pipe. A device, such as /dev/zero, may never end, unless it is a terminal."""
    with path.open("rb") as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and not stream.isatty()):
            raise OSError(22, "a device, not a file")
        return stream.read()


def _line_of(content: bytes, offset: int) -> int:
    return content.count(b"\n", 0, offset) + 1
