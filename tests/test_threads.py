"""Threads, forks and the end of a process: right numbers, no hang, and the BLAS left as it was."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bertft import PairMoments, cka, compare, rsa
from bertft.kernels import blas_threads, cpu_threads, one_blas_thread

SHARED = 8
"""Threads that share an accumulator, or call at once."""

LIMIT = 120
"""Seconds after which a process that was started here has hung."""


def spaces(n, d=32, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    return x, x + rng.standard_normal((n, d))


def run(code, **environment):
    """Run code in a fresh process and return what it printed; it fails if the process does, or hangs."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True, text=True, timeout=LIMIT, env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


@pytest.fixture
def two_blas_threads():
    """Give NumPy's BLAS two threads, and return a function that counts them."""
    libraries = [library for kind in blas_threads._libraries() for library in kind]
    if not libraries:
        pytest.skip("NumPy's BLAS is neither OpenBLAS nor BLIS")
    before = [library.num_threads for library in libraries]
    for library in libraries:
        blas_threads._set_threads(library, 2)
    yield lambda: [library.num_threads for library in libraries]
    for library, number in zip(libraries, before, strict=True):
        blas_threads._set_threads(library, number)


def test_the_blas_has_its_threads_back_after_overlapping_calls(two_blas_threads):
    """The first caller ends before the second, and its thread lives on: it was the one that might set the number."""
    before = two_blas_threads()
    first_in, second_in, first_out, release = (threading.Event() for _ in range(4))

    def first():
        with one_blas_thread():
            first_in.set()
            second_in.wait(LIMIT)
        first_out.set()
        release.wait(LIMIT)

    def second():
        first_in.wait(LIMIT)
        with one_blas_thread():
            second_in.set()
            first_out.wait(LIMIT)
            held.append(two_blas_threads())

    held = []
    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    threads[1].join()
    assert held == [[1] * len(before)]
    assert two_blas_threads() == before
    with one_blas_thread(), one_blas_thread():
        assert two_blas_threads() == [1] * len(before)  # the thread that set it before is still alive
    assert two_blas_threads() == before
    release.set()
    threads[0].join()


def test_calls_from_any_thread_hold_the_blas_and_let_it_go(two_blas_threads):
    before, (x, y) = two_blas_threads(), spaces(600)
    rsa(x, y)
    counts = []

    def inside():
        with one_blas_thread():
            counts.append(two_blas_threads())

    for _ in range(3):
        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
    assert counts == [[1] * len(before)] * 3
    for _ in range(3):
        with ThreadPoolExecutor(SHARED) as pool:
            list(pool.map(lambda _: rsa(x, y, kernel="euclidean"), range(2 * SHARED)))
        assert two_blas_threads() == before


def test_an_error_lets_the_blas_go(two_blas_threads):
    before = two_blas_threads()
    x, y = spaces(50)
    x[3] = np.nan
    with pytest.raises(ValueError, match="row 3 of x"):
        rsa(x, y)
    assert two_blas_threads() == before


@pytest.mark.parametrize("kernel", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_calls_at_once_give_the_bits_of_a_call_alone(kernel, dtype, two_blas_threads, monkeypatch):
    monkeypatch.setattr(cpu_threads, "INLINE", 0.0)
    monkeypatch.setattr("bertft.similarity.plan.CHEAP_FLOPS", 0.0)
    x, y = (rows.astype(dtype) for rows in spaces(1500, 48))
    alone = rsa(x, y, kernel=kernel), cka(x, y), PairMoments().update(x, y).rsa()
    with ThreadPoolExecutor(SHARED) as pool:
        found = list(
            pool.map(
                lambda _: (rsa(x, y, kernel=kernel), cka(x, y), PairMoments().update(x, y).rsa()), range(3 * SHARED)
            )
        )
    assert set(found) == {alone}


def test_a_call_does_not_wait_for_the_work_of_others(monkeypatch):
    """The pool is busy with other work; the calling thread does its own."""
    monkeypatch.setattr(cpu_threads, "INLINE", 0.0)
    x, y = spaces(500)
    expected = rsa(x, y)
    release = threading.Event()
    pool = cpu_threads._pool()
    busy = [pool.submit(release.wait, LIMIT) for _ in range(pool._max_workers)]
    try:
        assert rsa(x, y) == expected
    finally:
        release.set()
        assert all(future.result() for future in busy)


def test_an_error_in_a_thread_reaches_the_caller():
    def work(number):
        if number == 7:
            raise ValueError("seven")
        return number

    for _ in range(20):
        with pytest.raises(ValueError, match="seven"):
            cpu_threads.in_threads(work, [(number,) for number in range(30)], operations=1e9)
    assert cpu_threads.in_threads(work, [(number,) for number in range(7)], operations=1e9) == list(range(7))


@pytest.mark.parametrize("measured", [False, True], ids=["updates", "with measures meanwhile"])
def test_one_accumulator_shared_by_threads(measured):
    """Batches far from each other, so that centers move, in any order; values and states are read meanwhile."""
    x, y = spaces(1600, 12)
    x += np.repeat(np.arange(16), 100)[:, None] * 3.0
    groups = np.arange(1600) // 4
    maps = ("unit", "raw")
    whole = PairMoments(maps, reservoir=200).update(x, y, groups)
    for _ in range(5):
        found = PairMoments(maps, reservoir=200)
        batches = np.split(np.arange(1600), 80)
        stop = threading.Event()

        def read(found=found, stop=stop):
            while not stop.is_set():
                if found.n >= 3:
                    assert np.isfinite(found.cka())
                    assert PairMoments.from_state(found.state()).n <= 1600
                    assert found.merge(PairMoments(maps, reservoir=200)).n <= 1600

        with ThreadPoolExecutor(SHARED + 1) as pool:
            reader = pool.submit(read) if measured else None
            list(pool.map(lambda rows, found=found: found.update(x[rows], y[rows], groups[rows]), batches))
            stop.set()
            if reader is not None:
                reader.result()
        assert found.n == 1600
        for value, expected in ((found.rsa(), whole.rsa()), (found.cka(), whole.cka())):
            assert value == pytest.approx(expected, abs=1e-10)
        assert sorted(found.sample.groups.tolist()) == sorted(whole.sample.groups.tolist())


def test_first_updates_of_two_widths_at_once():
    """One of the widths wins; the other is refused, and nothing of it is added."""
    x, y = spaces(40, 6)
    for _ in range(20):
        found, errors = PairMoments(), []

        def add(d, found=found, errors=errors):
            try:
                found.update(x[:, :d], y)
            except ValueError as error:
                errors.append(str(error))

        threads = [threading.Thread(target=add, args=(d,)) for d in (3, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found.n == 40
        assert len(errors) == 1
        assert "one accumulator takes one pair of spaces" in errors[0]


def test_tasks_of_asyncio():
    x, y = spaces(800)
    expected = rsa(x, y, kernel="euclidean")

    async def several():
        return await asyncio.gather(*(asyncio.to_thread(rsa, x, y, kernel="euclidean") for _ in range(SHARED)))

    assert asyncio.run(asyncio.wait_for(several(), LIMIT)) == [expected] * SHARED


FORKED = """
import os, threading, time
import numpy as np
from bertft import PairMoments, rsa
from bertft.kernels import cpu_threads

cpu_threads.INLINE = 0.0
rng = np.random.default_rng(0)
x = rng.standard_normal((1500, 64)); y = x + rng.standard_normal((1500, 64))
rsa(x, y)
stop = threading.Event()
shared = PairMoments(("raw",))

def busy():
    while not stop.is_set():
        rsa(x, y)
        rsa(x, y, kernel="euclidean"); shared.update(x[:100] + shared.n, y[:100])

threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads: thread.start()
for attempt in range(20):
    time.sleep(0.02 * (attempt % 5))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if shared.n >= 3: shared.cka(); shared.update(x, y)
            print("value", rsa(x, y), flush=True)
            code = 0
        finally:
            os._exit(code)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done: break
        time.sleep(0.1)
    else:
        os.kill(child, 9); stop.set(); raise SystemExit("a child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
stop.set()
for thread in threads: thread.join()
print("value", rsa(x, y))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forks_while_other_threads_compute():
    """The parent has called `rsa` before. A fork during a first call, which imports and compiles, may hang."""
    words, _ = run(FORKED)
    assert len(set(words) - {"value"}) == 1, words
    assert words.count("value") == 21


POOL = """
import multiprocessing
import numpy as np
from bertft import rsa

def work(seed):
    rng = np.random.default_rng(seed); x = rng.standard_normal((400, 32))
    return rsa(x, x + rng.standard_normal((400, 32)))

if __name__ == "__main__":
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        print(*pool.map(work, range(3)))
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_of_a_pool(method, tmp_path):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"there is no {method} here")
    script = tmp_path / "work.py"  # a started process imports it
    script.write_text(POOL.format(method=method))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert [float(word) for word in done.stdout.split()] == [rsa(*spaces(400, seed=seed)) for seed in range(3)]


def test_workers_of_a_data_loader():
    """Workers are forked after this process has used its pool and its BLAS."""
    code = """
import numpy as np
import torch
from bertft import rsa

def spaces(seed):
    rng = np.random.default_rng(seed); x = rng.standard_normal((1500, 32))
    return x, x + rng.standard_normal((1500, 32))

class Values(torch.utils.data.Dataset):
    def __len__(self): return 6
    def __getitem__(self, seed): return rsa(*spaces(seed), kernel="euclidean")

expected = [rsa(*spaces(seed), kernel="euclidean") for seed in range(6)]
found = torch.cat(list(torch.utils.data.DataLoader(Values(), num_workers=2))).tolist()
assert found == expected, (found, expected)
print("equal")
"""
    assert run(code)[0] == ["equal"]


AT_THE_END = """
import atexit, threading, time
import numpy as np
from bertft import PairMoments, rsa
from bertft.kernels import cpu_threads

cpu_threads.INLINE = 0.0
x = np.random.default_rng(0).standard_normal((300, 16))
y = x + 1.0 * (np.arange(16) > 7) * np.random.default_rng(1).standard_normal((300, 16))
if {warm}: rsa(x, y)
atexit.register(lambda: print("atexit", rsa(x, y), PairMoments().update(x, y).rsa(), flush=True))
threading.Thread(target=lambda: (time.sleep(0.5), print("thread", rsa(x, y, kernel="euclidean"), flush=True))).start()
"""


@pytest.mark.parametrize("warm", [True, False])
def test_calls_at_the_end_of_a_process(warm):
    words, errors = run(AT_THE_END.format(warm=warm))
    assert words[0::2][:1] == ["thread"]
    assert "atexit" in words
    numbers = [float(word) for word in words if word[0].isdigit()]
    assert len(numbers) == 3
    assert all(0 < number <= 1 for number in numbers)
    assert not errors


UNWRITABLE = """
import warnings
from numba.core import caching

def refuse(self): raise OSError(30, "Read-only file system")
caching._CacheLocator.ensure_cache_path = refuse
if {late}:
    caching._CacheLocator.ensure_cache_path = lambda self: None
    caching.IndexDataCacheFile.save = refuse_save = lambda self, key, data: refuse(self)
    caching.IndexDataCacheFile.load = lambda self, key: refuse(self)
import numpy as np
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from bertft import compare, rsa
    x = np.random.default_rng(0).standard_normal((40, 6)); y = x + np.random.default_rng(1).standard_normal((40, 6))
    print(rsa(x, y), rsa(x, y, kernel="rbf"), compare(x, y)["cka"].value)
print(len(caught), *sorted({{warning.category.__name__ for warning in caught}}))
assert all("set NUMBA_CACHE_DIR to a folder" in str(warning.message) for warning in caught)
"""


@pytest.mark.parametrize("late", [False, True], ids=["no folder", "a disk that fills up"])
def test_nothing_can_be_written(late):
    """Without a folder for compiled code it is compiled in memory, with one warning."""
    x = np.random.default_rng(0).standard_normal((40, 6))
    y = x + np.random.default_rng(1).standard_normal((40, 6))
    words, _ = run(UNWRITABLE.format(late=late))
    expected = rsa(x, y), rsa(x, y, kernel="rbf"), compare(x, y)["cka"].value
    assert [float(word) for word in words[:3]] == pytest.approx(expected, abs=1e-12)
    assert words[3:] == (["0"] if late else ["1", "PerformanceWarning"])


def test_time_is_no_worse_than_alone():
    """Eight calls at once take about as long as eight calls in turn, with room for a busy machine."""
    x, y = spaces(1200, 64)
    rsa(x, y, kernel="euclidean")
    start = time.perf_counter()
    for _ in range(SHARED):
        rsa(x, y, kernel="euclidean")
    in_turn = time.perf_counter() - start
    start = time.perf_counter()
    with ThreadPoolExecutor(SHARED) as pool:
        list(pool.map(lambda _: rsa(x, y, kernel="euclidean"), range(SHARED)))
    assert time.perf_counter() - start < 5 * in_turn + 1


TILES = """
import numpy as np
from bertft import rsa
x = np.random.default_rng(0).standard_normal((40, 6))
print(rsa(x, x, kernel="rbf"))
"""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no terminals to try")
def test_a_terminal_is_told_that_kernels_are_compiled_and_only_then(tmp_path):
    environment = dict(os.environ, NUMBA_CACHE_DIR=str(tmp_path))
    for wanted in ("compiling kernels, once", ""):
        outer, inner = os.openpty()
        subprocess.run([sys.executable, "-c", TILES], env=environment, stdout=subprocess.PIPE, stderr=inner, check=True)
        os.close(inner)
        with contextlib.suppress(OSError), open(outer, "rb", buffering=0) as terminal:
            os.set_blocking(outer, False)
            assert (terminal.read() or b"").decode().strip() == wanted
