"""rsa and the other measures on whole arrays: against dense float64 on all kinds of rows, and on bad input."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

import bertft
from bertft import cka, compare, explain, rsa
from bertft.errors import ArrayError, BackendError, OptionError, PrecisionWarning, UndefinedWarning
from bertft.kernels import reference
from bertft.similarity import plan
from bertft.statistics import ranks, tiles

KERNELS = ("cosine", "correlation", "dot", "sqeuclidean", "euclidean", "rbf")
METHODS = ("pearson", "cosine", "spearman")


def dense_values(x, kernel):
    """Return the kernel's values over pairs, by SciPy in float64, independent of bertft."""
    x = np.asarray(x, dtype=np.float64)
    if kernel in ("cosine", "correlation"):
        return 1.0 - pdist(x, kernel)
    if kernel == "dot":
        return squareform(x @ x.T - np.diag((x * x).sum(axis=1)), checks=False)
    if kernel == "rbf":
        squares = pdist(x, "sqeuclidean")
        return np.exp(-squares / squares.mean())
    return pdist(x, kernel)


def dense_rsa(x, y, kernel="cosine", method="pearson"):
    f, g = dense_values(x, kernel), dense_values(y, kernel)
    if method == "spearman":
        return spearmanr(f, g).statistic
    if method == "cosine":
        return f @ g / np.sqrt(f @ f) / np.sqrt(g @ g)
    return np.corrcoef(f, g)[0, 1]


def related(n, d1, d2, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, 4))
    return [(shared @ rng.standard_normal((4, d)) + rng.standard_normal((n, d)) + 1).astype(dtype) for d in (d1, d2)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("n", "d1", "d2"), [(3, 4, 6), (12, 30, 20), (200, 24, 40), (400, 8, 5)])
def test_every_kernel_with_every_method(kernel, method, n, d1, d2):
    x, y = related(n, d1, d2)
    tolerance = 1e-6 if method == "spearman" else 1e-7
    assert rsa(x, y, kernel=kernel, method=method) == pytest.approx(dense_rsa(x, y, kernel, method), abs=tolerance)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("spread", [1.0, 1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize(("n", "d"), [(3, 32), (50, 96), (900, 32), (2500, 96)])
def test_exact_at_any_mean_cosine(dtype, spread, n, d):
    """Cosines from about 0 to 0.99999999, where float32 alone has no correct digit; the truth is of the same rows."""
    rng = np.random.default_rng(1)
    mean = rng.standard_normal(d)
    mean *= np.sqrt(d) / np.linalg.norm(mean)
    rows = [
        torch.from_numpy(mean * (spread < 1) + spread * rng.standard_normal((n, d))).to(getattr(torch, dtype))
        for _ in range(2)
    ]
    y = (rows[0].double() + 0.5 * (rows[1].double() - torch.from_numpy(mean * (spread < 1)))).to(rows[0].dtype)
    truth = reference.rsa(rows[0].double().numpy(), y.double().numpy())
    assert rsa(rows[0], y) == pytest.approx(truth, abs=1e-7)


def test_single_precision_products_are_exact_too(monkeypatch):
    """The same with products in float32, as for many rows, by both paths."""
    monkeypatch.setattr(plan, "CHEAP_FLOPS", 0.0)
    for n, d in ((3000, 64), (60, 200)):
        for offset in (0.0, 30.0, 1000.0):
            x, y = related(n, d, d // 2, dtype=np.float64)
            x, y = (x + offset).astype(np.float32), (y - offset).astype(np.float32)
            assert rsa(x, y) == pytest.approx(reference.rsa(x, y), abs=1e-7)
    x, y = related(300, 20, 20)
    for kernel in ("euclidean", "rbf"):
        assert rsa(x, y, kernel=kernel) == pytest.approx(dense_rsa(x, y, kernel), abs=1e-7)


def test_sorted_rows_and_outliers_do_not_hurt(monkeypatch):
    monkeypatch.setattr(plan, "CHEAP_FLOPS", 0.0)
    x, y = related(2000, 40, 40)
    x[:5] *= 1000
    y[:1000] += 50
    for kernel in ("cosine", "dot", "sqeuclidean", "euclidean"):
        assert rsa(x, y, kernel=kernel) == pytest.approx(dense_rsa(x, y, kernel), abs=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_ties(method, monkeypatch):
    rng = np.random.default_rng(2)
    x = rng.integers(0, 2, (150, 3)).astype(np.float32) + 1
    y = rng.integers(0, 3, (150, 2)).astype(np.float32) + 1
    for kernel in ("sqeuclidean", "dot"):
        assert rsa(x, y, kernel=kernel, method=method) == pytest.approx(dense_rsa(x, y, kernel, method), abs=1e-7)
    if method == "spearman":
        monkeypatch.setattr(ranks, "EXACT_PAIRS", 0)
        monkeypatch.setattr(plan, "CHEAP_FLOPS", 0.0)
        for kernel in ("sqeuclidean", "dot"):
            assert rsa(x, y, kernel=kernel, method=method) == pytest.approx(dense_rsa(x, y, kernel, method), abs=1e-6)


@pytest.mark.parametrize("kernel", ["cosine", "dot", "euclidean"])
def test_binned_spearman_is_within_its_bound(kernel, monkeypatch):
    x, y = related(500, 30, 20)
    x[:3] *= 50  # outliers, which stretch the range of values
    truth = dense_rsa(x, y, kernel, "spearman")
    for count in (1 << 10, 1 << 14, 1 << 20):
        ops = bertft.kernels.select("cpu")
        spaces = [tiles.space_of(bertft.arrays.RowSource(rows, "x"), kernel, ops, None, True) for rows in (x, y)]
        found = ranks.binned_spearman(*spaces, ops, bins=count)
        assert abs(found.value - truth) <= found.bound + 1e-9
        assert found.bound < max(200 / count, 2e-5)  # 124,750 values cannot fill more bins
    monkeypatch.setattr(ranks, "EXACT_PAIRS", 1000)
    assert explain(x, y, kernel=kernel, method="spearman").path == "binned ranks"
    assert rsa(x, y, kernel=kernel, method="spearman") == pytest.approx(truth, abs=1e-6)


def test_every_kind_of_array_gives_the_same_number(tmp_path):
    x, y = related(300, 16, 12)
    truth = rsa(x, y)
    for rows, others in ((x, y), (x[:, ::-1].copy()[:, ::-1], y)):
        np.save(tmp_path / "x.npy", rows)
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        assert rsa(mapped, others) == pytest.approx(truth, abs=1e-12)
        assert rsa(np.asarray(mapped)[:], torch.from_numpy(others)) == pytest.approx(truth, abs=1e-12)
    assert rsa(x.astype(">f4"), y.tolist()) == pytest.approx(truth, abs=1e-7)
    assert rsa((x * 100).astype(np.int32), (y * 100).astype(np.int16)) == pytest.approx(truth, abs=0.01)


def test_a_memory_map_is_neither_changed_nor_kept_in_memory(tmp_path):
    x, y = related(3000, 64, 64)
    np.save(tmp_path / "x.npy", x)
    for mode in ("r", "r+", "c"):
        mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
        if mode == "c":
            mapped[0] = 5.0  # is in the memory of this process only: dropping its page would lose it
        before = np.array(mapped)
        assert rsa(mapped, y) == pytest.approx(rsa(before, y), abs=1e-12)
        assert np.array_equal(mapped, before)


def test_companions_against_textbook_formulas():
    x, y = related(500, 12, 9, dtype=np.float64)
    xc, yc = x - x.mean(axis=0), y - y.mean(axis=0)
    k, m = xc @ xc.T, yc @ yc.T
    assert cka(x, y, debiased=False) == pytest.approx((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()), abs=1e-10)
    assert cka(x, y) == pytest.approx(debiased(x, y) / np.sqrt(debiased(x, x) * debiased(y, y)), abs=1e-10)
    qx, qy = np.linalg.qr(xc)[0], np.linalg.qr(yc)[0]
    left, rho, _ = np.linalg.svd(qx.T @ qy, full_matrices=False)
    assert bertft.cca(x, y) == pytest.approx(rho.mean(), abs=1e-10)
    weights = np.abs((qx @ left).T @ xc).sum(axis=1)
    assert bertft.pwcca(x, y) == pytest.approx(weights @ rho / weights.sum(), abs=1e-10)
    tops = []
    for centred in (xc, yc):
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        tops.append(u[:, : int(np.searchsorted(np.cumsum(s**2) / (s**2).sum(), 0.99)) + 1])
    assert bertft.svcca(x, y) == pytest.approx(np.linalg.svd(tops[0].T @ tops[1], compute_uv=False).mean(), abs=1e-10)
    nuclear = np.linalg.svd(xc.T @ yc, compute_uv=False).sum()
    assert bertft.procrustes(x, y) == pytest.approx(nuclear / np.linalg.norm(xc) / np.linalg.norm(yc), abs=1e-10)


def debiased(x, y):
    """Song et al. 2012, equation 5, with n x n matrices."""
    k, m, n = x @ x.T, y @ y.T, len(x)
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    total = (k * m).sum() + k.sum() * m.sum() / (n - 1) / (n - 2) - 2 / (n - 2) * (k @ m).sum()
    return total / n / (n - 3)


def test_identical_spaces_score_one():
    x, _ = related(300, 16, 4)
    for kernel in KERNELS:
        for method in METHODS:
            assert rsa(x, x, kernel=kernel, method=method) == pytest.approx(1.0, abs=1e-9)
    for measure in (bertft.cka, bertft.cca, bertft.svcca, bertft.pwcca, bertft.procrustes):
        assert measure(x, x) == pytest.approx(1.0, abs=1e-6)


def test_explain_names_path_backend_and_reasons(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    few = explain(np.zeros((300, 768)), np.zeros((300, 768)))
    many = explain(np.zeros((5000, 768), np.float32), np.zeros((5000, 768), np.float32))
    other = explain(np.zeros((5000, 768), np.float32), np.zeros((5000, 768), np.float32), kernel="rbf")
    assert (few.path, many.path, other.path) == ("tiles", "moments", "tiles")
    assert many.flops == 4 * 5000 * 768**2
    text = str(many)
    assert "bilinear" in text
    assert "backend   cpu" in text
    assert "not gpu" in text
    assert "GFLOP" in text
    assert "few against 768 + 768 columns" in str(few)
    assert explain(*np.zeros((2, 9000, 4)), method="spearman").path == "binned ranks"
    check = explain(*np.zeros((2, 9000, 4), np.float32), backend="reference")
    assert (check.path, check.products) == ("tiles", "float64")
    assert check.bytes > 9000**2 * 16


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        (
            np.ones((5, 2)),
            np.ones((4, 2)),
            {},
            ArrayError,
            "x has 5 rows and y has 4; both must describe the same items",
        ),
        (np.ones((2, 2)), np.ones((2, 2)), {}, ArrayError, "x and y have 2 rows; at least 3 are needed"),
        (np.ones(5), np.ones((5, 2)), {}, ArrayError, r"x has shape \(5,\); expected \(n, d\)"),
        (np.ones((5, 2), complex), np.ones((5, 2)), {}, ArrayError, "x has type complex128; expected one of float16"),
        ([[1, 2], [3]], np.ones((2, 2)), {}, ArrayError, "x does not have rows of equal length"),
        (torch.ones(5, 2, dtype=torch.int64), np.ones((5, 2)), {}, ArrayError, r"torch|type int64.*\.float\(\)"),
        (
            np.eye(5),
            np.eye(5),
            {"kernel": "cosin"},
            OptionError,
            "unknown kernel 'cosin'; expected one of cosine, correlation",
        ),
        (
            np.eye(5),
            np.eye(5),
            {"method": "kendall"},
            OptionError,
            "unknown method 'kendall'; expected one of pearson, cosine",
        ),
        (np.eye(5), np.eye(5), {"backend": "cuda"}, OptionError, "unknown backend 'cuda'; expected one of auto"),
        (
            np.eye(5),
            np.eye(5),
            {"kernel": "rbf", "gamma": 0.0},
            OptionError,
            r"gamma is 0\.0; expected a positive number",
        ),
    ],
)
def test_bad_input_says_what_was_wanted(x, y, options, error, message):
    with pytest.raises(error, match=message):
        rsa(x, y, **options)


@pytest.mark.parametrize("n", [40, 20_000])
def test_bad_rows_are_named(n):
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((2, n, 6)).astype(np.float32)
    row = n - 3
    for value, reason in ((0.0, "all zeros"), (np.inf, "not finite"), (np.nan, "not finite")):
        y[row] = value
        for kernel in ("cosine", "euclidean") if reason == "not finite" and n < 100 else ("cosine",):
            with pytest.raises(ArrayError, match=f"row {row} of y is {reason}"):
                rsa(x, y, kernel=kernel)
    y[row] = 0.3
    with pytest.raises(ArrayError, match=f"row {row} of y is constant"):
        rsa(x, y, kernel="correlation")
    huge = x.astype(np.float64)
    huge[row] *= 1e200  # too large to square, which the cosine does not need
    y[row] = 1.0
    assert rsa(huge, y) == pytest.approx(rsa(x, y), abs=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("n", [5, 400])
def test_a_constant_triangle_is_nan_with_a_warning(kernel, method, n):
    rng = np.random.default_rng(5)
    y = rng.standard_normal((n, 6))
    same = np.tile(rng.standard_normal(6) + 0.1, (n, 1))
    for constant in [same, same.astype(np.float32)] + ([np.eye(6)[:5]] if n == 5 and kernel != "correlation" else []):
        for pair in ((constant, y), (y, constant)):
            with pytest.warns(UndefinedWarning, match="have the same kernel value"):
                assert np.isnan(rsa(*pair, kernel=kernel, method=method))


def test_spaces_that_do_not_vary_are_nan_with_a_warning():
    y = np.random.default_rng(6).standard_normal((50, 6))
    for measure in (cka, bertft.cca, bertft.svcca, bertft.pwcca, bertft.procrustes):
        with pytest.warns(UndefinedWarning, match="the rows of x do not vary"):
            assert np.isnan(measure(np.ones((50, 4)), y))


def test_cca_of_few_rows_is_called_meaningless():
    x, y = related(30, 20, 20)
    with pytest.warns(PrecisionWarning, match="30 rows for 20 \\+ 20 dimensions"):
        bertft.cca(x, y)


def test_explicit_backends_agree():
    x, y = related(60, 10, 8)
    assert rsa(x, y, backend="reference") == pytest.approx(rsa(x, y), abs=1e-7)
    for kernel in KERNELS:
        for method in METHODS:
            found = [rsa(x, y, kernel=kernel, method=method, backend=backend) for backend in ("reference", "cpu")]
            assert found[0] == pytest.approx(found[1], abs=1e-7)


@pytest.mark.usefixtures("needs_triton")
def test_a_backend_of_the_gpu_refuses_arrays_of_the_cpu(monkeypatch):
    x, y = related(60, 10, 8)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match="backend 'gpu' cannot serve: the arrays are on the CPU"):
        rsa(x, y, backend="gpu")


@pytest.mark.usefixtures("needs_triton")
@pytest.mark.parametrize("products", ["float32", "float64"])
@pytest.mark.parametrize("kernel", ["cosine", "euclidean", "rbf"])
def test_the_gpu_path_from_end_to_end(kernel, products, monkeypatch):
    """On a GPU, or else with its kernels interpreted on torch tensors, through the same statistics."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if products == "float32":
        monkeypatch.setattr(plan, "CHEAP_FLOPS", 0.0)
    x, y = related(40, 10, 8)
    x[3] = x[4]
    on_device = [torch.from_numpy(rows).to(device) for rows in (x, y)]
    for method in METHODS:
        for exact_pairs in (10**9, 0) if method == "spearman" else (10**9,):
            monkeypatch.setattr(ranks, "EXACT_PAIRS", exact_pairs)
            found = rsa(*on_device, kernel=kernel, method=method, backend="gpu")
            tolerance = 2e-4 if exact_pairs == 0 else 1e-6  # so few pairs lie in wide bins
            assert found == pytest.approx(dense_rsa(x, y, kernel, method), abs=tolerance)


@pytest.mark.usefixtures("needs_triton")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of a nan row in an interpreted kernel
def test_moments_on_the_gpu_path_merge_with_those_of_the_cpu():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = related(90, 10, 8)
    gpu = bertft.PairMoments(("unit", "raw"), backend="gpu")
    gpu.update(*(torch.from_numpy(rows[:50]).to(device) for rows in (x, y)))
    cpu = bertft.PairMoments(("unit", "raw")).update(x[50:], y[50:])
    whole = bertft.PairMoments(("unit", "raw")).update(x, y)
    for merged in (gpu.merge(cpu), cpu.merge(gpu)):
        assert merged.rsa() == pytest.approx(whole.rsa(), abs=1e-6)
        assert merged.cka() == pytest.approx(whole.cka(), abs=1e-6)
    bad = torch.from_numpy(x[:20]).to(device)
    bad[7] = 0
    with pytest.raises(ArrayError, match="row 57 of x is all zeros"):
        gpu.update(bad, torch.from_numpy(y[:20]).to(device))


@pytest.mark.usefixtures("needs_triton")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of padding in an interpreted kernel
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_on_the_gpu_path(dtype, monkeypatch):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":  # rows on the CPU are widened: keep these, as rows on a GPU are kept
        monkeypatch.setattr("bertft.arrays._for_kernels", lambda rows: rows)
    x, y = (torch.from_numpy(rows).to(dtype) for rows in related(60, 10, 8))
    found = bertft.PairMoments(backend="gpu").update(x.to(device), y.to(device))
    assert found.rsa() == pytest.approx(dense_rsa(x.double().numpy(), y.double().numpy()), abs=1e-6)
    assert found.sample.x.dtype == np.float32


def test_compare_gives_values_and_errors():
    x, y = related(400, 10, 8)
    found = compare(x, y, measures=list(bertft.measures.MEASURES), groups=np.arange(400) // 4)
    assert found["rsa"].value == pytest.approx(rsa(x, y), abs=1e-6)
    assert all(0 < estimate.stderr < 0.2 for estimate in found.values())
    with pytest.raises(OptionError, match=r"unknown measure 'rsaa' .did you mean 'rsa'.*expected some of rsa, rsa-c"):
        compare(x, y, measures=["rsaa"])
    assert compare(x, y, measures="rsa, cka").keys() == {"rsa", "cka"}
    for measures, message in (([], "no measure was named"), (None, "measures is None"), ([3], "measures is")):
        with pytest.raises(OptionError, match=message):
            compare(x, y, measures=measures)
    for groups in (3, np.arange(399), np.ones(400), "abc"):
        with pytest.raises(ArrayError, match="expected one whole number a row"):
            compare(x, y, groups=groups)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(compare(x[:5], y[:5])["rsa"].stderr)  # five groups are too few for a standard error
