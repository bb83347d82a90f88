"""The CUDA kernels of trees and ranks: compiled for GPUs, and run on the CPU, lane by lane, against the C++ core.

csrc/tests/cuda_emulation.hpp makes C++ of them; csrc/tests/fuzz_cuda_trees.cpp does the same under the sanitizers.
Where there is a GPU and CuPy, the same tests run there.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from bertft import arrays, kernels
from bertft.errors import BackendError
from bertft.kernels import core_cpu, cupy_trees
from bertft.probes import evaluate_depths, evaluate_distances, placement

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "bertft" / "kernels" / "trees.cu"
ON_GPU = torch.cuda.is_available() and kernels.refusals("cuda:0")["cupy"] is None


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """The kernels as a library of the host."""
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler to run the CUDA kernels on the CPU with: install g++, or set CXX")
    library = tmp_path_factory.mktemp("emulated") / "trees.so"
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, ROOT / "csrc" / "tests" / "emulated_trees.cpp", "-o", library], check=True)
    function = ctypes.CDLL(str(library)).emulated_launch
    function.argtypes = ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.POINTER(ctypes.c_uint64)
    return function


@pytest.fixture
def device(request, monkeypatch):
    """A GPU, or the CPU with kernels that are emulated there."""
    if ON_GPU:
        return "cuda"
    function = request.getfixturevalue("emulated")

    def launch(kernel, blocks, warps, shared, *arguments):
        assert shared <= 48 << 10
        assert all(argument.is_contiguous() for argument in arguments if isinstance(argument, torch.Tensor))
        words = [part.data_ptr() if isinstance(part, torch.Tensor) else part for part in arguments]
        assert function(kernel.encode(), blocks, warps, (ctypes.c_uint64 * len(words))(*words)) == 0

    monkeypatch.setattr(cupy_trees, "launch", launch)
    return "cpu"


def random_batch(seed, batch, width, dtype):
    """Whole and smooth distances, not always symmetric, with infinities, nan beyond the lengths, random masks."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, width + 1, batch)
    distances = rng.integers(0, 7, (batch, width, width)).astype(dtype)
    distances[: batch // 2] = rng.random((batch // 2, width, width))
    distances[rng.random(distances.shape) < 0.05] = np.inf
    distances[::2] = np.minimum(distances[::2], distances[::2].transpose(0, 2, 1))
    for sentence, n in enumerate(lengths):
        distances[sentence, n:] = distances[sentence, :, n:] = np.nan
    return distances, lengths, rng.random((batch, width)) > 0.2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("batch", "width"), [(9, 7), (8, 32), (7, 33), (5, 70), (1, 1), (0, 5)])
def test_trees_equal_the_core(device, dtype, batch, width):
    distances, lengths, keep = random_batch(width, batch, width, dtype)
    found = cupy_trees.spanning_trees(torch.as_tensor(distances, device=device), lengths, keep)
    assert found.dtype == torch.int32
    np.testing.assert_array_equal(found.cpu().numpy(), core_cpu.spanning_trees(distances, lengths, keep))


@pytest.mark.parametrize("types", [(np.float32, np.float64), (np.float64, np.float32), (np.float32, np.float32)])
@pytest.mark.parametrize(("rows", "width"), [(21, 9), (6, 32), (9, 75), (3, 300), (1, 1), (0, 5)])
def test_correlations_equal_the_core(device, types, rows, width):
    rng = np.random.default_rng(width)
    x = rng.integers(0, 9, (rows, width)).astype(types[0])
    y = (x + rng.standard_normal((rows, width))).astype(types[1])
    x[: rows // 3], y[rows // 2 : rows // 2 + 1, 0] = 4.0, np.nan
    lengths = rng.integers(0, width + 1, rows)
    found = cupy_trees.row_spearman(*(torch.as_tensor(side, device=device) for side in (x, y)), lengths)
    expected = core_cpu.row_spearman(x, y, lengths)
    np.testing.assert_array_equal(found.cpu().numpy(), expected)


def test_subnormal_values_are_told_apart(device):
    """CuPy compiles with -ftz=true, under which a float comparison takes all of these for zeros."""
    rng = np.random.default_rng(8)
    cells = rng.permutation(2 * 7 * 7).reshape(2, 7, 7).astype(np.float32) * np.float32(1e-42)
    lengths, keep = np.array([7, 5]), np.ones((2, 7), dtype=bool)
    there = torch.as_tensor(cells, device=device)
    found = cupy_trees.spanning_trees(there, lengths, keep)
    np.testing.assert_array_equal(found.cpu().numpy(), core_cpu.spanning_trees(cells, lengths, keep))
    found = cupy_trees.row_spearman(there[0], there[1], np.full(7, 7))
    expected = core_cpu.row_spearman(cells[0], cells[1], np.full(7, 7))
    np.testing.assert_array_equal(found.cpu().numpy(), expected)


def test_strides_and_tensors_of_lengths(device):
    distances, lengths, keep = random_batch(1, 6, 20, np.float64)
    given = torch.as_tensor(distances, device=device).transpose(1, 2)
    lengths_there, keep_there = (torch.as_tensor(array, device=device) for array in (lengths, keep))
    found = cupy_trees.spanning_trees(given, lengths_there, keep_there)
    turned = np.ascontiguousarray(distances.transpose(0, 2, 1))
    np.testing.assert_array_equal(found.cpu().numpy(), core_cpu.spanning_trees(turned, lengths, keep))


def test_the_kernels_refuse_what_they_cannot_read(device):
    cells, lengths, keep = torch.zeros(2, 3, 3, device=device), np.array([3, 3]), np.ones((2, 3), dtype=bool)
    broken = cells.clone()
    broken[1, 0, 2] = torch.nan
    for arguments, message in [
        ((cells[:, :2], lengths, keep), r"distances has shape \(2, 2, 3\), wanted \(2, 2, 2\)"),
        ((cells, lengths[:1], keep), r"lengths has shape \(1,\), wanted \(2,\)"),
        ((cells, np.array([3, 4]), keep), "sentence 1 has length 4; expected 0 to 3"),
        ((cells, lengths, keep[:1]), r"keep has shape \(1, 3\), wanted \(2, 3\)"),
        ((cells.int(), lengths, keep), "distances has type torch.int32, wanted float64 or float32"),
        ((broken, lengths, keep), "sentence 1 has a distance that is nan"),
        ((cells.new_zeros(0, 4097, 4097), lengths[:0], keep[:0]), r"4097 words a sentence; on a GPU at most 4096"),
    ]:
        with pytest.raises(ValueError, match=message):
            cupy_trees.spanning_trees(*arguments)
    with pytest.raises(ValueError, match=r"gold has shape \(3, 2\), wanted \(3, 3\)"):
        cupy_trees.row_spearman(cells[0], cells[0, :, :2], np.array([3, 3, 3]))
    with pytest.raises(ValueError, match="row 2 has length -1; expected 0 to 3"):
        cupy_trees.row_spearman(cells[0], cells[0], np.array([3, 3, -1]))


@pytest.mark.parametrize("stays", [True, False])
def test_evaluation_of_predictions_on_a_gpu(device, stays, monkeypatch):
    rng = np.random.default_rng(2)
    lengths, n = rng.integers(5, 13, 8), 12
    gold = rng.integers(1, 6, (8, n, n)).astype(np.float32)
    predicted = (gold + rng.standard_normal(gold.shape)).astype(np.float32)
    depths = np.where(np.arange(n) == 2, 0, gold[:, 0])
    expected = evaluate_distances(predicted, gold, lengths), evaluate_depths(predicted[:, 1], depths, lengths)
    if device == "cpu":  # tensors of the CPU come as NumPy: let them stay, as those of a GPU do
        monkeypatch.setattr("bertft.probes.structural_evaluation.padded", lambda array, *_: (array.contiguous(), "gpu"))
        on_cpu = kernels.select("cpu")
        monkeypatch.setattr(kernels, "select", lambda name, *_: on_cpu if name == "cpu" else kernels.Operations("cupy"))
    seconds = iter([1.0, 2.0] if stays else [2.0, 1.0])
    monkeypatch.setattr(placement, "_least_seconds", lambda run: next(seconds))
    monkeypatch.setattr(placement, "_faster", {})
    used = []
    for module in (cupy_trees, core_cpu):
        found = module.spanning_trees
        monkeypatch.setattr(module, "spanning_trees", lambda *given, m=module, f=found: used.append(m) or f(*given))
    there = [torch.as_tensor(array, device=device) for array in (predicted, gold, predicted[:, 1], depths)]
    assert evaluate_distances(*there[:2], lengths) == expected[0]
    assert used == [cupy_trees if stays else core_cpu] * 2
    assert evaluate_depths(*there[2:], lengths) == expected[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_are_widened_wherever_they_lie(dtype, monkeypatch):
    monkeypatch.setattr(arrays, "_for_kernels", lambda array: array)  # what it does to those on a GPU
    values = torch.rand(2, 3, 3).to(dtype)
    found, _ = arrays.padded(values, "predicted", (None, 3, 3))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, values.float(), rtol=0, atol=0)


@pytest.mark.usefixtures("needs_triton")
def test_a_gpu_takes_each_operation_where_it_is(monkeypatch):
    have = {"triton", "cupy"}
    monkeypatch.setattr(kernels, "_missing", lambda package, remedy: None if package in have else f"no {package}")
    both = kernels.select("cuda:0")
    assert (both.backend, both.arrays) == ("triton", "torch")
    assert both.spanning_trees is cupy_trees.spanning_trees
    assert both.moments.__module__ == "bertft.kernels.triton_moments"
    with pytest.raises(BackendError, match=r"triton has no row_spearman, only reference, numba, cupy; move"):
        _ = kernels.select("cuda:0", "triton").row_spearman
    have.remove("cupy")
    with pytest.raises(BackendError, match=r"triton has no row_spearman.*; cupy: no cupy; move .* with \.cpu\(\)"):
        _ = kernels.select("cuda:0").row_spearman
    have.clear()
    with pytest.raises(BackendError, match="no backend can serve arrays on cuda:0: triton: no triton; cupy: no cupy"):
        kernels.select("cuda:0")
    have.add("cupy")
    assert kernels.choose("cuda:0") == "cupy"
    with pytest.raises(BackendError, match=r"'cupy' cannot serve: cupy: the arrays are on the CPU; .* with \.cuda\(\)"):
        kernels.select("cpu", "cupy")


def test_the_source_stands_alone():
    """NVRTC, which compiles it for users, has no headers; and what the package lacks could not be compiled."""
    assert "#include" not in SOURCE.read_text(encoding="utf-8")
    assert SOURCE == cupy_trees.SOURCE


@pytest.mark.parametrize("arch", [80, 90])
def test_machine_code(arch, tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not on PATH: install the CUDA toolkit to compile the kernels for GPUs")
    given = [
        nvcc,
        f"-arch=sm_{arch}",
        "--cubin",
        "-ftz=true",
        "-Werror",
        "all-warnings",
        "-Xptxas",
        "-v",
        "-o",
        tmp_path / "trees",
    ]
    shown = subprocess.run([*given, SOURCE], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    used = [line for line in shown.stderr.splitlines() if "stack frame" in line]
    assert len(used) == 6
    assert all("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in line for line in used)
