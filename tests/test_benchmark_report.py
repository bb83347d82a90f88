"""The report of the benchmarks: what it refuses, what it writes, that the README says what was recorded."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import competitors
import numpy as np
import pytest
import recording
import report

ROOT = Path(__file__).parent.parent
CPU = {"brand_raw": "Some Processor", "family": 6, "model": 1, "stepping": 2, "arch_string_raw": "x86_64"}
FAST, SLOW = "benchmarks/bench_a.py::bench_fast", "benchmarks/bench_a.py::bench_slow[some, variant]"


def benchmark(name, **extra):
    facts = {
        "errors": {"bertft": 1e-9, "numpy": 2e-5},
        "tolerances": {"bertft": 1e-7, "numpy": 1e-4},
        "checked": True,
        "seconds": {"numpy": [4.0, 8.0, 5.0], "bare products": [0.5, 0.9, 1.0]},
        "reference": None,
        "costs": {"bertft": {"flops": 4e9, "bytes": 2e9}},
        "goals": {"numpy": ["at least", 4], "bare products": ["at most", 1.1]},
    }
    return {"fullname": name, "group": "a group", "stats": {"data": [1.0, 2.0, 1.0]}, "extra_info": facts | extra}


@pytest.fixture
def run():
    """A run as pytest-benchmark writes it."""
    machine = {
        "cpu": CPU,
        "cores": 2,
        "gpu": None,
        "system": "Linux",
        "python_version": "3.11.7",
        "busy": 0.5,
        "versions": {"bertft": "1", "numpy": "2", "scipy": "3", "torch": "4", "scikit-learn": "5"},
        "blas": [{"of": "numpy", "internal_api": "openblas", "version": "0.3", "architecture": "Zen"}],
    }
    return {
        "machine_info": machine,
        "commit_info": {"id": "0123456789abcdef", "dirty": False},
        "datetime": "2026-01-02T03:04:05",
        "outcomes": {FAST: "passed", SLOW: "passed"},
        "benchmarks": [benchmark(FAST), benchmark(SLOW)],
    }


def unwrapped(text):
    return " ".join(text.split())


def test_readme_says_what_was_recorded():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.partition(report.BEGIN)[2].partition(report.END)[0]
    (name,) = re.findall(rf"\({report.RESULTS}/([\w-]+)\.json\)", block)
    record = json.loads((ROOT / report.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert report.stem_of(record) == name
    assert block == f"\n\n{report.readme_block(record)}\n\n"
    assert (ROOT / report.RESULTS / f"{name}.md").read_text(encoding="utf-8") == report.page(record)
    assert not list(recording.faults(record["benchmarks"]))


def test_a_run_is_recorded_whole(run):
    record = recording.recorded([run], [FAST, SLOW])
    assert report.stem_of(record) == "some-processor-family-6-model-1-2-cores"
    assert (record["date"], record["missing"]) == ("2026-01-02", [])
    assert record["benchmarks"][0]["seconds"] == {
        "bertft": [1.0, 2.0, 1.0],
        "numpy": [4.0, 8.0, 5.0],
        "bare products": [0.5, 0.9, 1.0],
    }
    page, block = report.page(record), report.readme_block(record)
    # 25 %, median and 75 % of 1, 1, 2; 4 GFLOP and 2 GB in a second.
    assert "| a group | bertft | 3 | 1 s | 1 s | 1.5 s | 1 | 4 | 2 | 1e-9 | 1e-7 |" in page
    assert "|  | numpy | 3 | 4.5 s | 5 s | 6.5 s | 5 |  |  | 2e-5 | 1e-4 |" in page
    assert "|  | bare products (lower bound) | 3 | 700 ms | 900 ms | 950 ms | 0.9 |  |  |  |  |" in page
    for text in (page, block):
        assert "| a group (some, variant) | numpy | at least 4× | 5× | 3 |" in text
        assert "| a group | bare products (lower bound) | at most 1.1 | **1.11** | 3 |" in text
        assert "OpenBLAS 0.3 Zen (numpy)" in text
    said = unwrapped(block)
    missed = "a group, bare products (lower bound): 1.11, goal at most 1.1; a group (some"
    assert f"Missed goals (bold above): {missed}" in said
    assert "No competitor is faster." in said
    assert "times are unreliable" not in said


def test_losses_and_a_busy_machine_are_shown(run):
    run["benchmarks"][0]["extra_info"]["seconds"]["numpy"] = [0.5]
    run["machine_info"]["busy"] = 60.0
    record = recording.recorded([run], [FAST, SLOW])
    said = unwrapped(report.readme_block(record))
    assert "Faster than bertft: numpy on a group." in said
    assert "Other work used 60 % of the processors, so the times are unreliable." in said
    assert "|  | numpy | 1 | 500 ms | 500 ms | 500 ms | **0.5** |" in report.page(record)
    assert "| a group | numpy | at least 4× | **0.5×** | 3, competitor 1 |" in report.page(record)


def failed(run):
    run["outcomes"][FAST] = "failed: call"
    return "bench_a.py::bench_fast failed: call"


def skipped(run):
    run["outcomes"][FAST] = "skipped: Skipped: no patience"
    return "bench_a.py::bench_fast skipped: Skipped: no patience"


def absent(run):
    del run["outcomes"][SLOW], run["benchmarks"][1]
    return "missing: bench_a.py::bench_slow"


def unmeasured(run):
    del run["benchmarks"][1]
    return "bench_a.py::bench_slow[some, variant] recorded no time"


def unchecked(run):
    del run["benchmarks"][0]["extra_info"]["checked"]
    return "bench_a.py::bench_fast did not check its answer"


def unchecked_competitor(run):
    del run["benchmarks"][0]["extra_info"]["errors"]["numpy"]
    return "bench_a.py::bench_fast: the answer of numpy was not checked"


def off(run):
    run["benchmarks"][0]["extra_info"]["errors"]["bertft"] = 2e-7
    return "bench_a.py::bench_fast: bertft has error 2.0e-07, tolerance 1e-07"


def undefined(run):
    run["benchmarks"][0]["extra_info"]["errors"]["bertft"] = float("nan")
    return "bench_a.py::bench_fast: bertft has error nan, tolerance 1e-07"


def without_outcomes(run):
    del run["outcomes"]
    return "a run has no benchmark outcomes"


@pytest.mark.parametrize(
    "spoil", [failed, skipped, absent, unmeasured, unchecked, unchecked_competitor, off, undefined, without_outcomes]
)
def test_a_wrong_run_is_refused_and_nothing_is_written(run, spoil, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "suite_of", lambda folder: [FAST, SLOW])
    source, results, readme = tmp_path / "run.json", tmp_path / "results", tmp_path / "README.md"
    readme.write_text(f"before {report.BEGIN} old {report.END} after")
    message = spoil(run)
    source.write_text(json.dumps(run))
    with pytest.raises(recording.Refused, match=re.escape(message)) as caught:
        report.main([str(source), "--readme"], results, readme)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "run.json"]
    assert " old " in readme.read_text()


def test_a_partial_run_says_what_is_missing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "suite_of", lambda folder: [FAST, SLOW])
    source, results, readme = tmp_path / "run.json", tmp_path / "results", tmp_path / "README.md"
    readme.write_text(f"before {report.BEGIN} old {report.END} after")
    absent(run)
    source.write_text(json.dumps(run))
    report.main([str(source), "--partial", "--readme"], results, readme)
    (recorded,) = results.glob("*.json")
    written = readme.read_text()
    assert "Not measured in this run: bench_a.py::bench_slow." in unwrapped(written)
    assert written.startswith("before ")
    assert written.endswith(" after")
    report.main([str(recorded), "--readme"], results, readme)
    assert readme.read_text() == written


def test_skipped_benchmarks_are_named(run):
    run["outcomes"][SLOW] = "skipped: Skipped: no GPU is available"
    del run["benchmarks"][1]
    record = recording.recorded([run], [FAST, SLOW])
    assert "- bench_a.py::bench_slow[some, variant]: skipped: Skipped: no GPU is available" in report.page(record)


def test_runs_are_merged_only_where_they_are_alike(run):
    other = copy.deepcopy(run)
    for of, name in ((run, FAST), (other, SLOW)):
        of["outcomes"] = {name: "passed"}
        of["benchmarks"] = [benchmark(name)]
    assert len(recording.recorded([run, other], [FAST, SLOW])["benchmarks"]) == 2
    with pytest.raises(recording.Refused, match=re.escape("benchmarks in more than one run: bench_a.py::bench_fast")):
        recording.recorded([run, run], [FAST])
    newer = copy.deepcopy(other)
    newer["machine_info"]["versions"]["numpy"] = "3"
    with pytest.raises(recording.Refused, match="the runs differ in versions"):
        recording.recorded([run, newer], [FAST, SLOW])
    other["machine_info"]["cpu"] = CPU | {"model": 7}
    with pytest.raises(
        recording.Refused, match=r"different processors cannot be merged: Some Processor .* model 1.* model 7"
    ):
        recording.recorded([run, other], [FAST, SLOW])


def test_a_refusal_ends_in_status_1_and_one_line(run, tmp_path):
    record = recording.recorded([run], [FAST, SLOW])
    off({"benchmarks": [{"extra_info": record["benchmarks"][0]}]})
    source = tmp_path / "recorded.json"
    source.write_text(json.dumps(record))
    ended = subprocess.run(
        [sys.executable, report.__file__, str(source)], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 1
    assert ended.stderr == "report.py: refused: bench_a.py::bench_fast: bertft has error 2.0e-07, tolerance 1e-07\n"
    assert not ended.stdout


def test_a_wrong_answer_in_a_session_is_refused(tmp_path):
    """The whole way: a benchmark whose answer is wrong leaves timings behind, and its run is not recorded."""
    shutil.copy(ROOT / "benchmarks" / "conftest.py", tmp_path)
    (tmp_path / "bench_a.py").write_text(
        "def bench_wrong(race):\n"
        "    race(lambda: 1.0, {'other': lambda: 2.0}, lambda name, answer: abs(answer - 2.0),\n"
        "         tolerances={'bertft': 0.5, 'other': 0.5}, rounds=3, pause=0)\n"
        "def bench_right(race):\n"
        "    race(lambda: 2.0, {'other': lambda: 2.0}, lambda name, answer: abs(answer - 2.0),\n"
        "         tolerances={'bertft': 0.5, 'other': 0.5}, rounds=3, pause=0)\n"
    )
    (tmp_path / "pytest.ini").write_text(
        f"[pytest]\npython_files = bench_*.py\npython_functions = bench_*\npythonpath = {ROOT / 'benchmarks'}\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "--benchmark-json=run.json"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 1, ended.stdout
    assert "bertft has error 1.0e+00, tolerance 5e-01" in ended.stdout
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["outcomes"] == {"bench_a.py::bench_wrong": "failed: call", "bench_a.py::bench_right": "passed"}
    with pytest.raises(recording.Refused, match=r"^bench_a.py::bench_wrong failed: call$"):
        recording.recorded([run], run["outcomes"])
    right = [record for record in run["benchmarks"] if "right" in record["name"]]
    assert [len(times) for times in recording.kept(right[0])["seconds"].values()] == [3, 3]


def test_the_suite_is_collected_whole():
    suite = recording.suite_of(ROOT / "benchmarks")
    files = {recording.short(name).partition("::")[0] for name in suite}
    assert files == {path.name for path in (ROOT / "benchmarks").glob("bench_*.py")}


@pytest.mark.parametrize(
    ("value", "goal", "shown"),
    [
        (1.302, ("at most", 1.3), {"goal": "at most 1.3", "measured": "1.302", "missed": True}),
        (1.2, ("at most", 1.3), {"goal": "at most 1.3", "measured": "1.2", "missed": False}),
        (1346.6, ("at least", 1000), {"goal": "at least 1,000", "measured": "1,347", "missed": False}),
        (485.3, None, {"goal": "", "measured": "485", "missed": False}),
    ],
)
def test_a_goal_is_judged_before_it_is_rounded(value, goal, shown):
    assert report.judged(value, goal, "") == shown


@pytest.mark.parametrize("mean_cosine", [0.0, 0.9996, 0.99999999])
def test_dense_and_moment_truth_agree(mean_cosine):
    rng = np.random.default_rng(5)
    spread = 1.0 if mean_cosine == 0 else np.sqrt(1 / mean_cosine - 1)
    noise = spread * rng.standard_normal((2, 700, 48)) / np.sqrt(48)
    center = (mean_cosine > 0) * np.eye(48)[0]
    x, y = center + noise[0], center + noise[0] + noise[1]
    found = competitors.moment_truth(x, y, block=201)
    assert found == pytest.approx(competitors.dense_truth(x, y, block=256), abs=1e-12)
    if mean_cosine < 0.9:  # where the plain way has digits left
        assert found == pytest.approx(competitors.numpy_dense(x, y), abs=1e-12)


def test_dense_truth_of_other_kernels():
    x, y = (rows.astype(np.float64) for rows in competitors.spaces(300, d=40))
    upper = np.triu_indices(300, 1)
    distances = [np.linalg.norm(rows[:, None] - rows[None], axis=2)[upper] for rows in (x, y)]
    found = competitors.dense_truth(x, y, "euclidean", block=128)
    assert found == pytest.approx(np.corrcoef(*distances)[0, 1], abs=1e-12)
    similar = [np.exp(-(of**2) / np.mean(of**2)) for of in distances]
    found = competitors.dense_truth(x, y, "rbf", block=128)
    assert found == pytest.approx(np.corrcoef(*similar)[0, 1], abs=1e-12)


def test_debiased_cka_is_that_of_whole_matrices():
    x, y = (rows.astype(np.float64) for rows in competitors.spaces(60, d=24))
    n, ones = len(x), np.ones(len(x))

    def hsic(k, l):  # noqa: E741 - as in the paper
        mixed = (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (ones @ k @ l @ ones)
        return (np.trace(k @ l) + mixed) / (n * (n - 3))

    k, l = (rows @ rows.T * (1 - np.eye(n)) for rows in (x, y))  # noqa: E741
    truth = hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))
    assert competitors.debiased_cka(x, y) == pytest.approx(truth, abs=1e-12)
