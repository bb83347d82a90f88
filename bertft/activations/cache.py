"""The storage of hidden states on disk: computed once for a checkpoint and its sentences, then read in place.

An entry is a folder with one `.npy` file for each layer, (rows, d), and a `manifest.json` of sizes and checksums. The
rows are the words or subwords of all kept sentences, in order. The name of the folder is a hash of everything that
decides the numbers: the content of the checkpoint, the tokens, their assignment to words, the pooling and the dtypes.
The device and the batch size are not part of the name; they change only the last digits.

An entry is written to a temporary folder, the manifest last, and then renamed, so a folder with the final name is
complete. Every use verifies the checksums, and a damaged entry is written again. Only one process writes an entry at a
time; others wait for it and then read it. Beside the model, memory holds the tokens, about 40 bytes a word, and the
hidden states of one batch, `batch_tokens` × layers × d floats.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
import platformdirs
import torch
from numpy.lib.format import dtype_to_descr, write_array_header_1_0
from numpy.typing import NDArray
from torch import Tensor

from bertft.activations.batches import BATCH_TOKENS, make_batch, plan_batches
from bertft.activations.encode import TokenisedTexts
from bertft.activations.forward import read_layers
from bertft.activations.manner import Manner, manner_of
from bertft.activations.sampling import Draw
from bertft.activations.words import pooled
from bertft.checkpoints.anatomy import hidden_size
from bertft.checkpoints.checkpoint import Checkpoint, pad_id
from bertft.errors import ArrayError, BertftError, CheckpointError
from bertft.files import checked_description, checksum
from bertft.progress import Progress, Say
from bertft.untrusted import read_json, reason

DTYPES = {"float16": torch.float16, "float32": torch.float32}

FORMAT = 2
"""Version of the layout, part of the name of every entry. Increase it to ignore entries of older versions of bertft."""

STALE_SECONDS = 3600
"""Age at which a temporary folder counts as left by a killed run and is removed."""

_MANIFEST = "manifest.json"
_TEMPORARY = ".writing-"
_HOMELESS = (
    "no directory for the cache: this user has no home directory, and XDG_CACHE_HOME is not set; set it, or name a "
    "cache directory"
)


def cache_root(cache: str | Path | None) -> Path:
    """Return the cache directory for a user's option; None stands for `default_cache()`.

    Raises `BertftError` for a name such as `~name/cache` of a user who has no home directory.
    """
    if cache is None:
        return default_cache()
    try:
        return Path(cache).expanduser()
    except RuntimeError as error:
        raise BertftError(f"{cache}: there is no such home directory; name the folder in full") from error


def default_cache() -> Path:
    """Return the user's cache directory: on Linux `$XDG_CACHE_HOME/bertft`, or else `~/.cache/bertft`.

    Raises `BertftError` for a user who has neither.
    """
    try:
        found = platformdirs.user_cache_path("bertft", appauthor=False)
    except (RuntimeError, OSError) as error:
        raise BertftError(_HOMELESS) from error
    if found.parts[:1] == ("~",):  # older versions of platformdirs return it as it is
        raise BertftError(_HOMELESS)
    return found


@dataclass(frozen=True, eq=False)
class Entry:
    """The hidden states that are wanted, and where and how they are stored."""

    root: Path
    checkpoint: Checkpoint
    texts: TokenisedTexts
    draw: Draw
    """The tokens that the rows are made of."""
    starts: NDArray[np.int64]
    """Sentence i owns rows starts[i] to starts[i + 1]."""
    kinds: tuple[NDArray[np.int64], ...]
    """Further arrays over the tokens that decide the rows."""
    means: NDArray[np.int64] | None
    """The number of drawn tokens that each row is the mean of; None where every token is a row."""
    layers: tuple[int, ...]
    pooling: str
    dtype: str
    unit: str
    """The name of a row in messages: word or subword."""
    width: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", hidden_size(self.checkpoint.model))

    @cached_property
    def key(self) -> str:
        """The hash of everything that decides the numbers, except the choice of layers."""
        texts = self.texts
        tokens = hashlib.sha256()
        for array in (texts.ids, texts.types, texts.starts, *self.kinds, self.starts):
            tokens.update(f"{array.dtype.str}{array.shape}".encode())
            tokens.update(np.ascontiguousarray(array).data)
        parts = [FORMAT, self.checkpoint.content_hash, str(self.checkpoint.model.dtype), tokens.hexdigest()]
        return hashlib.sha256(json.dumps([*parts, self.pooling, self.dtype]).encode()).hexdigest()[:32]

    @property
    def n_rows(self) -> int:
        return int(self.starts[-1])

    @property
    def header(self) -> bytes:
        return npy_header(self.n_rows, self.width, np.dtype(self.dtype))

    @property
    def file_size(self) -> int:
        return len(self.header) + self.n_rows * self.width * np.dtype(self.dtype).itemsize

    @property
    def n_bytes(self) -> int:
        return len(self.layers) * self.file_size

    @property
    def description(self) -> str:
        layers = f"layer {self.layers[0]}" if len(self.layers) == 1 else f"{len(self.layers)} layers"
        return f"{self.what}: {layers} × {self.n_rows:,} {self.unit}s × {self.width}"

    @property
    def what(self) -> str:
        return f"{self.unit} vectors of {self.checkpoint.name}"

    def obtain(self, batch_tokens: int | None, progress: Progress | None, say: Say) -> tuple[Path, bool]:
        """Return the folder of the entry, and whether it was reused; compute the entry where it is missing.

        Reading takes no lock, so a cache may be read-only. A process that must compute an entry locks it first and
        then looks again, since another process may have written the entry in the meantime.

        Raises `BertftError` where the cache directory cannot be used or has too little free space.
        """
        with _cache_errors(self.root):
            _remove_stale(self.root)
            if folder := self._find(say):
                return folder, True
            self.root.mkdir(parents=True, exist_ok=True)
            with self._locked(say):
                if folder := self._find(say, remove_damaged=True):
                    return folder, True
                return self._write(batch_tokens, progress, say), False

    @contextmanager
    def _locked(self, say: Say) -> Iterator[None]:
        """Hold the lock of the entry; say so where another process holds it."""
        lock = filelock.FileLock(self.root / f".{self.key}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            say(f"{self.what}: another run is writing them to {self.root}; waiting for it to finish")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _find(self, say: Say, *, remove_damaged: bool = False) -> Path | None:
        """Return the folder of an undamaged entry with at least the wanted layers, or None."""
        for folder in sorted(self.root.glob(f"{self.key}-*")):
            recorded = _recorded_files(folder)
            if recorded is not None and not {str(layer) for layer in self.layers} <= recorded.keys():
                continue
            if damage := self._damage(folder, recorded):
                if remove_damaged:
                    say(f"{folder}: {damage}; the entry is removed and computed again")
                    shutil.rmtree(folder)
                continue
            say(f"{self.description}, {readable(self.n_bytes)}, reused from {folder}")
            return folder
        return None

    def _write(self, batch_tokens: int | None, progress: Progress | None, say: Say) -> Path:
        """Compute the entry and return its folder; on any failure remove what was written."""
        manner = manner_of(self.checkpoint)
        for note in manner.notes(self.checkpoint.name):
            say(note)
        free = shutil.disk_usage(self.root).free
        if self.n_bytes > free:
            raise BertftError(
                f"{self.root}: {self.description} take {readable(self.n_bytes)} as {self.dtype}, but only "
                f"{readable(free)} are free; free some space, choose another cache directory, or ask for fewer layers"
                + ("" if self.dtype == "float16" else " or float16")
            )
        folder = self.root / f"{self.key}-{_layer_list(self.layers)}"
        say(f"{self.description}, {readable(self.n_bytes)} as {self.dtype}, are written to {folder}")
        temporary = self.root / f"{_TEMPORARY}{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            self._write_layers(temporary, manner, batch_tokens, progress)
            self._write_manifest(temporary)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return folder

    def _write_layers(self, folder: Path, manner: Manner, batch_tokens: int | None, progress: Progress | None) -> None:
        model, texts, starts = self.checkpoint.model, self.texts, self.starts
        row_size = self.width * np.dtype(self.dtype).itemsize
        budget = batch_tokens or BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cpu"])
        plan = plan_batches(texts.lengths, np.unique(self.draw.sentences), budget, manner.grouping)
        done, total = 0, sum(len(members) for members in plan)
        with ExitStack() as opened:
            files: dict[int, BinaryIO] = {
                layer: opened.enter_context((folder / layer_file(layer)).open("wb")) for layer in self.layers
            }
            for file in files.values():
                file.write(self.header)
            for members in plan:
                batch = make_batch(texts, self.draw, members, pad_id(self.checkpoint), model.device)
                ends_in_batch = np.cumsum(starts[members + 1] - starts[members])
                means = None if self.means is None else torch.from_numpy(self.means[self._rows_of(members)])
                for layer, rows in read_layers(model, batch, self.layers, by_hooks=manner.by_hooks).rows.items():
                    vectors = self._stored(layer, rows if means is None else pooled(rows, means.to(model.device)))
                    parts = np.split(vectors, ends_in_batch[:-1])
                    for start, part in zip(starts[members].tolist(), parts, strict=True):
                        files[layer].seek(len(self.header) + start * row_size)
                        files[layer].write(part.data)
                done += len(members)
                if progress:
                    progress(done, total, self.what)

    def _rows_of(self, sentences: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row numbers of some sentences, one sentence after the other."""
        return np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in sentences])

    def _stored(self, layer: int, rows: Tensor) -> NDArray[Any]:
        """Return the vectors in the dtype of the file; raise where they are not finite or have the wrong width."""
        if rows.shape[-1] != self.width:
            raise CheckpointError(
                f"{self.checkpoint.name}: layer {layer} has {rows.shape[-1]} dimensions, but the config says "
                f"{self.width}; models whose layers differ in width are not supported"
            )
        stored = rows.to(DTYPES[self.dtype])
        if not bool(torch.isfinite(stored).all()):
            whose = f"{self.checkpoint.name}: the vectors of layer {layer}"
            if bool(torch.isfinite(rows).all()):
                raise ArrayError(
                    f"{whose} reach {rows.abs().max().item():.3g}, but the largest {self.dtype} is "
                    f"{torch.finfo(stored.dtype).max:.3g}; store them as float32"
                )
            raise ArrayError(f"{whose} are not finite; a model in half precision may need a wider dtype")
        return stored.cpu().numpy()

    def _write_manifest(self, folder: Path) -> None:
        files = {
            str(layer): {"bytes": path.stat().st_size, "sha256": found}
            for layer, (path, found) in zip(self.layers, _checksums(folder, self.layers), strict=True)
        }
        manifest = {
            "format": FORMAT,
            "checkpoint": self.checkpoint.name,
            "content_hash": self.checkpoint.content_hash,
            "pooling": self.pooling,
            "dtype": self.dtype,
            "rows": self.n_rows,
            "width": self.width,
            "files": files,
        }
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    def _damage(self, folder: Path, recorded: Mapping[str, Any] | None) -> str | None:
        """Return what is wrong with an entry, or None where it is complete and undamaged."""
        if recorded is None:
            return f"{_MANIFEST} is missing or damaged"
        for layer in self.layers:
            path = folder / layer_file(layer)
            size = path.stat().st_size if path.exists() else 0
            if size != self.file_size:
                return f"{path.name} has {size:,} bytes instead of {self.file_size:,}"
        for layer, (path, found) in zip(self.layers, _checksums(folder, self.layers), strict=True):
            if found != recorded[str(layer)].get("sha256"):
                return f"{path.name} is damaged: its checksum does not match the manifest"
        return None


def readable(n_bytes: int) -> str:
    """Return a size in bytes as text, in powers of 1000.

    >>> readable(512), readable(1_370_000_000)
    ('512 B', '1.37 GB')
    """
    size, units = float(n_bytes), ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"


def layer_file(layer: int) -> str:
    """Return the file name of a layer."""
    return f"layer-{layer:02d}.npy"


def _layer_list(layers: tuple[int, ...]) -> str:
    """Return the layers as part of a folder's name: first and last, or a hash where the range has gaps."""
    if layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"layers-{layers[0]}-{layers[-1]}"
    return f"layers-{hashlib.sha256(repr(layers).encode()).hexdigest()[:8]}"


def npy_header(n_rows: int, width: int, dtype: np.dtype[Any]) -> bytes:
    """Return the header of a `.npy` file of this shape and dtype."""
    stream = io.BytesIO()
    described = {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": (n_rows, width)}
    write_array_header_1_0(stream, described)
    return stream.getvalue()


def _recorded_files(folder: Path) -> Mapping[str, Any] | None:
    """Return what the manifest records of the file of each layer, or None without a readable manifest."""
    try:
        return checked_description(read_json(folder / _MANIFEST)["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _checksums(folder: Path, layers: Collection[int]) -> Iterator[tuple[Path, str]]:
    """Yield the file of each layer with the sha256 of its bytes."""
    paths = [folder / layer_file(layer) for layer in layers]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
        yield from zip(paths, threads.map(checksum, paths), strict=True)


def _remove_stale(root: Path) -> None:
    for folder in root.glob(f"{_TEMPORARY}*"):
        try:
            youngest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
        except OSError:  # the run that wrote it has just finished
            continue
        if time.time() - youngest > STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _cache_errors(root: Path) -> Iterator[None]:
    """Turn an `OSError` into a `BertftError` that names the cache directory."""
    try:
        yield
    except OSError as error:
        raise BertftError(
            f"{root}: cannot be used as a cache: {reason(error)}; free some space or choose another directory"
        ) from error
