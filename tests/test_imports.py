"""What may import what: data flows one way, one place names the backends, and `import bertft` loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bertft"
FILES = sorted(PACKAGE.rglob("*.py"))

# The floor plan: a part of the package, and the other parts it may import. Later rows stand on earlier ones.
FLOOR_PLAN: dict[str, set[str]] = {
    "errors": set(),
    "arrays": {"errors"},
    "data": {"errors"},
    "records": {"errors"},
    "kernels": {"errors", "_core"},
    "statistics": {"errors", "arrays", "kernels"},
    "measures": {"errors", "arrays", "kernels", "statistics"},
    "pair_moments": {"errors", "arrays", "kernels", "statistics", "measures"},
    "similarity": {"errors", "arrays", "kernels", "statistics", "measures", "pair_moments"},
    "probes": {"errors", "arrays", "kernels", "data"},
    "checkpoint_files": {"errors"},
    "adapters": {"errors", "checkpoint_files"},
    "models": {"errors", "checkpoint_files", "adapters"},
    "activations": {"errors", "models", "data"},
    "report": {"errors", "records"},
    "runs": {"errors", "models", "data", "records", "report"},
    "scoring": {"errors", "data", "measures", "pair_moments", "models", "activations", "records", "runs"},
    "tasks": {"errors", "data", "models", "records", "runs", "kernels", "_core", "activations"},
    "tuning": {"errors", "data", "models", "records", "report", "runs", "tasks"},
    "ablating": {"errors", "models", "records", "report", "runs", "tasks", "tuning"},
    "pretraining": {"errors", "data", "models", "records", "report", "runs", "tasks"},
    "structural_probing": {"errors", "data", "probes", "models", "activations", "records", "runs"},
    "edge_tasks": {"errors", "data", "probes", "activations"},
    "edge_probing": {"errors", "data", "probes", "models", "activations", "records", "runs", "edge_tasks"},
    "description_length": {
        *("errors", "data", "probes", "models", "activations", "records", "runs", "edge_tasks", "edge_probing")
    },
}
# These put the parts together.
EVERYTHING = {"__init__", "__main__", "cli", "commands", "callbacks", "demo"}

BACKENDS = {"triton", "numba", "cupy"}
HEAVY = {"torch", "transformers", "numba", "scipy", "pandas", "matplotlib", "rich", "triton", "cupy"}


def part_of(module: str) -> str:
    """The row of the floor plan: `bertft.kernels.types` belongs to `kernels`, `bertft` itself is `__init__`."""
    _, _, inside = module.partition(".")
    return inside.partition(".")[0] or "__init__"


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or any(path.with_suffix(suffix).is_file() for suffix in (".py", ".pyi"))


def imported_modules(source: str, file: Path) -> Iterator[str]:
    """The full names of all modules that a file imports anywhere in it, those for type checkers alone included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = file.relative_to(PACKAGE.parent).parts[: -node.level]
                base = ".".join([*package, *filter(None, [base])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if base.startswith("bertft") and is_module(name) else base


def backend_mentions(source: str) -> set[str]:
    """The backends that the code names, in imports, identifiers or strings; docstrings and comments may say more."""
    tree = ast.parse(source)
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    fields = [field for node in ast.walk(tree) if node not in docstrings for _, field in ast.iter_fields(node)]
    words = [field for field in fields if isinstance(field, str)]
    return {backend for backend in BACKENDS for word in words if backend in word.lower()}


def ids(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_imports_follow_the_floor_plan(file: Path) -> None:
    part = part_of(module_of(file))
    if part in EVERYTHING:
        return
    assert part in FLOOR_PLAN, f"{part} is new: give it a row of the floor plan"
    ours = {part_of(name) for name in imported_modules(file.read_text(), file) if name.split(".")[0] == "bertft"}
    upward = ours - FLOOR_PLAN[part] - {part}
    assert not upward, f"bertft.{part} may import {sorted(FLOOR_PLAN[part])}, and not {sorted(upward)}"


def test_floor_plan_has_no_cycle() -> None:
    seen: set[str] = {"_core"}
    for part, below in FLOOR_PLAN.items():
        assert below <= seen, f"{part} stands on {sorted(below - seen)}, which come later"
        seen.add(part)


@pytest.mark.parametrize("file", [file for file in FILES if part_of(module_of(file)) != "kernels"], ids=ids)
def test_only_kernels_name_a_backend(file: Path) -> None:
    named = backend_mentions(file.read_text())
    assert not named, f"{', '.join(sorted(named))}: only bertft.kernels names backends; ask it instead"


def test_the_readers_above_see_every_form() -> None:
    file = PACKAGE / "measures" / "__init__.py"
    forms = {
        "import bertft.cli": "cli",
        "from bertft import kernels": "kernels",
        "from ..models import load": "models",
        "from . import rsa": "measures",
        "from .. import rsa": "__init__",
    }
    for code, part in forms.items():
        assert [part_of(name) for name in imported_modules(code, file)] == [part], code
    for code in ("import triton.language as tl", "from cupy import x", "a = numba_cpu.f()", "f(backend='triton')"):
        assert backend_mentions(code), code
    assert not backend_mentions('def f():\n    "On triton."\n    return 1  # numba\n')


@pytest.mark.parametrize("module", ["bertft", "bertft.cli"])
def test_import_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []
