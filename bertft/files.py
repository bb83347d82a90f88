"""Output folders: files appear as a whole or not at all, one run at a time writes, and a manifest says what belongs.

- Every file is written under a temporary name beside its target and synced to disk before the first one is renamed. A
  full disk or a missing permission is therefore met while nothing has been replaced yet.
- Temporary files are written only by the run that holds the lock of their folder. Whoever gets the lock therefore
  knows that the temporary files in it are those of a run that was killed, and removes them.
- A set of files never mixes two runs, not even for a moment: the other old files of the set are removed before its
  first file is replaced, and the other new ones follow.
- A manifest, a small hidden file, lists the names, sizes and sha256 hashes of the files that bertft wrote.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from bertft.errors import BertftError, ReportWarning
from bertft.untrusted import read_json, reason

LOCK = ".bertft.lock"
"""The lock of a folder. It is removed when the run ends; one that a killed run left is no longer locked."""

MANIFEST = ".bertft.json"
"""The manifest of a folder: `files`, with the `bytes` and `sha256` of each by name, and whether they are `complete`."""

SHORT_WAIT = 60.0
"""How many seconds to wait for another run that is writing a few files to the same folder."""

_TEMPORARY = re.compile(r"\..+\.\d+\.bertft\.tmp")
_LITTER = re.compile(
    r"\..*\.tmp|\._.*|\.nfs.*|\.DS_Store|\.directory|\.localized|\.gitkeep|\.gitignore|\.Trash.*|\.fseventsd"
    r"|\.Spotlight-V100|\.ipynb_checkpoints|Thumbs\.db|desktop\.ini|lost\+found",
    re.IGNORECASE,
)
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}  # of file systems that have no locks
_held: set[tuple[str, int]] = set()

Described = Mapping[str, Mapping[str, Any]]
"""The `bytes` and `sha256` of files, by name."""


@dataclass(frozen=True)
class ResultFiles:
    """The files of a set of results: the numbers, and functions that draw the pictures and pages made of them."""

    numbers: Mapping[str, bytes]
    drawings: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)


def require_writable(folder: str | Path, names: Iterable[str] = ()) -> None:
    """Raise `BertftError` if files cannot be written to a folder, without creating it. Call it before a long run.

    names: of the files that will be written; none of them may be the name of a folder there.
    """
    folder = Path(folder)
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if _exists(path))
        for part in folder.absolute().relative_to(nearest.absolute()).parts:
            _exists(nearest / part)  # the names of folders yet to be made, which may be too long
        with tempfile.TemporaryFile(dir=nearest):
            pass
        _refuse_folders(folder, names)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise unwritable(folder, error) from error


def _exists(path: Path) -> bool:
    """Return whether a path exists; raises `OSError` for a name that cannot exist, such as one that is too long."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _refuse_folders(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if (folder / name).is_dir():
            raise IsADirectoryError(errno.EISDIR, f"{name} is a folder there")


@contextmanager
def folder_lock(folder: str | Path, *, wait: float = 0) -> Iterator[None]:
    """Hold a folder: no other run, and no other thread, gets it meanwhile. A block inside that holds it again may.

    The folder is created if it does not exist, and removed at the end if nothing was written to it. Temporary files
    that a killed run left in it are removed.

    wait: for how many seconds to wait for a run that holds the folder.

    Raises `BertftError` if another run holds the folder, or if it cannot be written.
    """
    folder = Path(folder)
    try:
        key = os.path.realpath(folder), threading.get_ident()
    except ValueError as error:  # a name with a null character
        raise unwritable(folder, error) from error
    if key in _held:
        yield
        return
    created: list[Path] = []
    try:
        lock = _acquired(folder, wait, created)
        _held.add(key)
        if lock is not None:
            _remove_temporaries(folder)
        yield
    finally:
        if key in _held:
            _held.discard(key)
            if lock is not None:
                # Whoever waits for the file that is removed here notices that, and takes the lock of a new one.
                with suppress(OSError):
                    (folder / LOCK).unlink()
                lock.release()
        for path in created:
            with suppress(OSError):  # it holds something
                path.rmdir()


def _acquired(folder: Path, wait: float, created: list[Path]) -> filelock.BaseFileLock | None:
    """Return the lock of a folder, acquired, or None if the file system has none; `created` gets the new folders."""
    until = time.monotonic() + max(wait, 1.0)
    while True:
        try:
            missing = [path for path in (folder, *folder.parents) if not _exists(path)]
            created += [path for path in missing if path not in created]
            folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(folder / LOCK)
            lock.acquire(timeout=wait)
            return lock
        except filelock.Timeout:
            raise BertftError(
                f"{folder}: another run is at work there; wait for it to end, or name another folder"
            ) from None
        except NotImplementedError:
            return None
        except FileNotFoundError as error:
            # A run that ended removed the folder, which was still empty, after it was seen here.
            if time.monotonic() > until:
                raise unwritable(folder, error) from error
            time.sleep(0.01)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) in _NO_LOCKS:
                return None
            raise unwritable(folder, error) from error


def _remove_temporaries(folder: Path) -> None:
    with suppress(OSError):
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        path.unlink()


def holds_nothing(folder: str | Path) -> bool:
    """Return whether a folder has no file, or does not exist; what killed runs and file managers leave is no file."""
    folder = Path(folder)
    if not folder.is_dir():
        return not os.path.lexists(folder)
    return all(path.name in (LOCK, MANIFEST) or _LITTER.fullmatch(path.name) for path in folder.iterdir())


def write_files(folder: str | Path, files: Mapping[str, bytes], *, replacing: Iterable[str] = ()) -> list[Path]:
    """Write a set of files, given by name, to a folder and return their paths; the folder is created if need be.

    If anything fails before the first file is in its place, none of the files appears, files of the same names stay as
    they were, and a folder that was created is removed. From then on the folder has new files alone: of a process that
    is killed meanwhile the first file, and as many of the others as were in their places.

    replacing: names of further files, made of the old ones, which are removed.

    Raises `BertftError` if the files cannot be written.
    """
    folder = Path(folder)
    with folder_lock(folder, wait=SHORT_WAIT):
        temporaries = {name: _temporary(folder, name) for name in files}
        aside: dict[str, Path] = {}
        first, *others = files
        try:
            _refuse_folders(folder, files)
            for name, content in files.items():
                with open(temporaries[name], "wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
            _put_aside(folder, dict.fromkeys([*others, *replacing]), aside)
            for name in files:
                os.replace(temporaries[name], folder / name)
            sync_folder(folder)
        except BaseException as error:
            if temporaries[first].exists():  # nothing is in its place yet
                for name, old in aside.items():
                    with suppress(OSError):
                        os.replace(old, folder / name)
            else:
                _remove(aside.values())
            if isinstance(error, OSError):
                raise unwritable(folder, error) from error
            raise
        else:
            _remove(aside.values())
        finally:
            _remove(temporaries.values())
    return [folder / name for name in files]


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _put_aside(folder: Path, names: Iterable[str], aside: dict[str, Path]) -> None:
    for name in names:
        if os.path.lexists(folder / name) and not (folder / name).is_dir():
            aside[name] = _temporary(folder, f"{name}.old")
            os.replace(folder / name, aside[name])


def _temporary(folder: Path, name: str) -> Path:
    return folder / f".{name}.{os.getpid()}.bertft.tmp"


def write_results(folder: str | Path, results: ResultFiles) -> list[Path]:
    """Write a set of results, `write_numbers` and then `write_drawings`, and return the paths."""
    with folder_lock(folder, wait=SHORT_WAIT):
        return [*write_numbers(folder, results), *write_drawings(folder, results)]


def write_numbers(folder: str | Path, results: ResultFiles) -> list[Path]:
    """Write the numbers of a set of results in the place of an older set, and return the paths.

    The pictures and pages of the older set are removed, those of which bertft knows that it wrote them. Raises
    `BertftError` if the files cannot be written; then the older set stays.
    """
    folder = Path(folder)
    with folder_lock(folder, wait=SHORT_WAIT):
        before = listed(folder)
        ours = {name: _description(content) for name, content in results.numbers.items()}
        stale = [
            name
            for name, described in before.items()
            if name not in ours and Path(name).name == name and not damage(folder, {name: described})
        ]
        _write_manifest(folder, {**before, **ours}, complete=False)
        try:
            written = write_files(folder, results.numbers, replacing=[*stale, *results.drawings])
        except BaseException:
            with suppress(BertftError, OSError):
                if before:
                    _write_manifest(folder, before, complete=not damage(folder, before))
                else:
                    (folder / MANIFEST).unlink(missing_ok=True)
            raise
        _write_manifest(folder, ours, complete=not results.drawings)
        return written


def write_drawings(folder: str | Path, results: ResultFiles) -> list[Path]:
    """Draw and write the pictures and pages of results whose numbers are written, and return the paths.

    One that cannot be drawn or written is left out, with a `ReportWarning`.
    """
    folder = Path(folder)
    written: list[Path] = []
    if not results.drawings:
        return written
    with folder_lock(folder, wait=SHORT_WAIT):
        ours = {name: described for name, described in listed(folder).items() if name in results.numbers}
        for name, draw in results.drawings.items():
            try:
                content = draw()
                _write_manifest(folder, {**ours, name: _description(content)}, complete=False)
                written += write_files(folder, {name: content})
                ours[name] = _description(content)
            except Exception as error:
                why = str(error) if isinstance(error, BertftError) else f"{type(error).__name__}: {error}"
                warnings.warn(f"{name} was left out: {why}; the numbers are whole", ReportWarning, stacklevel=2)
        try:
            _write_manifest(folder, ours, complete=True)
        except BertftError as error:
            warnings.warn(f"{MANIFEST} was left out: {error}; the numbers are whole", ReportWarning, stacklevel=2)
    return written


def seal(folder: Path) -> None:
    """Sync the files of a folder to disk, and write their manifest last; from then on `broken_seal` can tell damage."""
    described = describe(folder, sorted(path.name for path in folder.iterdir() if path.is_file()))
    for name in described:
        with (folder / name).open("rb+") as stream:
            os.fsync(stream.fileno())
    _write_manifest(folder, described, complete=True)
    sync_folder(folder.parent)


def broken_seal(folder: Path) -> str | None:
    """Return what is wrong with a folder that `seal` should have sealed, or None if it is as it was then."""
    described = listed(folder)
    return damage(folder, described) if described else "it was not saved completely"


def describe(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the size and the hash of some files of a folder, by name."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": checksum(folder / name)}
        for name in names
        if name not in (LOCK, MANIFEST)
    }


def damage(folder: Path, files: Described) -> str | None:
    """Return how the files of a folder differ from their description, or None if they do not."""
    for name, described in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != described.get("bytes"):
            return f"{name} has {size:,} bytes instead of {described.get('bytes')}"
    for name, described in files.items():
        if checksum(folder / name) != described.get("sha256"):
            return f"{name} has changed: its checksum is another"
    return None


def checksum(path: Path) -> str:
    """Return the sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _description(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def listed(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Return the files that the manifest of a folder lists, or none if there is no manifest that can be read."""
    try:
        return checked_description(read_json(folder / MANIFEST)["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def holds_results(folder: Path, name: str) -> bool:
    """Return whether a folder holds a run that has ended, with a file of this name among its results."""
    try:
        manifest = read_json(folder / MANIFEST)
        return bool(manifest["complete"]) and name in checked_description(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def checked_description(files: Any) -> dict[str, Mapping[str, Any]]:
    """Return a description of files that was read from JSON; raises `ValueError` if it is none."""
    if isinstance(files, dict) and all(isinstance(described, dict) for described in files.values()):
        return files
    raise ValueError("no description of files")


def _write_manifest(folder: Path, files: Described, *, complete: bool) -> None:
    content = {"written by": "bertft", "complete": complete, "files": files}
    write_files(folder, {MANIFEST: f"{json.dumps(content, ensure_ascii=False, indent=2)}\n".encode()})


def copy_files(files: Iterable[Path], folder: Path) -> None:
    """Copy files to a folder, which takes the place of one of that name; its parent must exist.

    If anything fails, a folder of that name stays as it was. Raises `BertftError` if the files cannot be written.
    """
    temporary = _temporary(folder.parent, folder.name)
    with folder_lock(folder.parent, wait=SHORT_WAIT):
        try:
            temporary.mkdir()
            for file in files:
                shutil.copyfile(file, temporary / file.name)
                with (temporary / file.name).open("rb+") as stream:
                    os.fsync(stream.fileno())
            sync_folder(temporary)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError):
                raise unwritable(folder.parent, error) from error
            raise


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk, where the system can."""
    with suppress(OSError):  # Windows opens no folders, and some file systems sync none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def unwritable(folder: Path, error: Exception) -> BertftError:
    """Return the error to raise for a folder to which files cannot be written."""
    return BertftError(f"{folder}: cannot write there: {reason(error)}; free space or name another folder")
