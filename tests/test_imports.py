"""What may import what: data flows one way, only kernels name their libraries, `import bertft` loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bertft"
FILES = sorted(PACKAGE.rglob("*.py"))

# The ground: small modules that every room may import; each may import those before it.
GROUND = ("errors", "untrusted", "location", "options", "progress", "records", "files", "arrays")

# The floor plan: a room of the package, and the rooms it may import beside the ground. Later rows use earlier ones.
FLOOR_PLAN: dict[str, set[str]] = {
    "kernels": {"_core"},
    "data": set(),
    "checkpoints": set(),
    "statistics": {"kernels"},
    "measures": {"kernels", "statistics"},
    "similarity": {"kernels", "statistics", "measures"},
    "activations": {"data", "checkpoints"},
    "probes": {"kernels", "data"},
    "report": set(),
    "tasks": {"data", "checkpoints", "activations", "kernels"},
    "experiments": {
        *("kernels", "data", "checkpoints", "statistics", "measures", "similarity", "activations", "probes", "tasks"),
        "report",  # what a driver returns draws, shows and saves itself; reports know rows and records alone
    },
}
# These put the rooms together.
EVERYTHING = {"__init__", "__main__", "cli", "commands", "demo"}

# Inside two rooms there are more: a part of the room, and the other parts it may import.
INSIDE: dict[str, dict[str, set[str]]] = {
    "probes": {
        "threads": set(),
        "side_by_side": {"threads"},
        "structural": {"threads", "side_by_side"},
        "edge": {"threads", "side_by_side"},
        "mdl": {"threads", "side_by_side", "edge"},
    },
    "report": {
        "rows": set(),
        "tables": {"rows"},
        "drawing": {"rows"},
        "page": {"drawing"},
        "score": {"rows", "tables", "drawing", "page"},
        **{
            part: {"rows", "tables", "drawing"}
            for part in ("diff", "structural", "edge_scores", "mdl", "tune", "ablate", "pretrain")
        },
        "edge_figures": {"rows", "drawing", "edge_scores"},
        "edge": {"rows", "tables", "drawing", "edge_scores", "edge_figures"},
    },
}

# What backends compute with: only the dispatch and its modules name them.
LIBRARIES = {"triton", "numba", "cupy"}
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


def library_mentions(source: str) -> set[str]:
    """The libraries that the code names, in imports, identifiers or strings; docstrings and comments may say more."""
    tree = ast.parse(source)
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    fields = [field for node in ast.walk(tree) if node not in docstrings for _, field in ast.iter_fields(node)]
    words = [field for field in fields if isinstance(field, str)]
    return {library for library in LIBRARIES for word in words if library in word.lower()}


def ids(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def imports_of(file: Path) -> set[str]:
    """Our own modules that a file imports, by full name."""
    return {name for name in imported_modules(file.read_text(), file) if name.split(".")[0] == "bertft"}


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_imports_follow_the_floor_plan(file: Path) -> None:
    room = part_of(module_of(file))
    if room in EVERYTHING:
        return
    ours = {part_of(name) for name in imports_of(file)} - {room}
    if room in GROUND:
        below = set(GROUND[: GROUND.index(room)])
    else:
        assert room in FLOOR_PLAN, f"{room} is new: give it a row of the floor plan"
        below = {*GROUND, *FLOOR_PLAN[room]}
    upward = ours - below
    assert not upward, f"bertft.{room} may import {sorted(below)}, and not {sorted(upward)}"


@pytest.mark.parametrize("file", [file for file in FILES if part_of(module_of(file)) in INSIDE], ids=ids)
def test_imports_follow_the_plan_inside_a_room(file: Path) -> None:
    room, plan = part_of(module_of(file)), INSIDE[part_of(module_of(file))]
    part = module_of(file).partition(f"{room}.")[2].partition(".")[0]
    if not part:  # the room's own __init__
        return
    assert part in plan, f"{room}/{part} is new: give it a row"
    prefix = f"bertft.{room}."
    ours = {name.removeprefix(prefix).partition(".")[0] for name in imports_of(file) if name.startswith(prefix)}
    upward = ours - plan[part] - {part}
    assert not upward, f"bertft.{room}.{part} may import {sorted(plan[part])}, and not {sorted(upward)}"


def test_every_module_has_a_row() -> None:
    rooms = {part_of(module_of(file)) for file in FILES}
    assert rooms == {*GROUND, *FLOOR_PLAN, *EVERYTHING}
    assert len(rooms) <= 24


@pytest.mark.parametrize("plan", [FLOOR_PLAN, *INSIDE.values()], ids=["rooms", *INSIDE])
def test_floor_plans_have_no_cycle(plan: dict[str, set[str]]) -> None:
    seen: set[str] = {"_core"}
    for part, below in plan.items():
        assert below <= seen, f"{part} stands on {sorted(below - seen)}, which come later"
        seen.add(part)


@pytest.mark.parametrize("file", [file for file in FILES if part_of(module_of(file)) != "kernels"], ids=ids)
def test_only_kernels_name_a_library_of_theirs(file: Path) -> None:
    named = library_mentions(file.read_text())
    assert not named, f"{', '.join(sorted(named))}: only bertft.kernels names them; ask it for an operation instead"


def test_the_readers_above_see_every_form() -> None:
    file = PACKAGE / "measures" / "__init__.py"
    forms = {
        "import bertft.cli": "cli",
        "from bertft import kernels": "kernels",
        "from ..checkpoints import load": "checkpoints",
        "from . import rsa": "measures",
        "from .. import rsa": "__init__",
    }
    for code, part in forms.items():
        assert [part_of(name) for name in imported_modules(code, file)] == [part], code
    for code in ("import triton.language as tl", "from cupy import x", "a = numba_tiles.f()", "f(backend='triton')"):
        assert library_mentions(code), code
    assert not library_mentions('def f():\n    "On triton."\n    return 1  # numba\n')


@pytest.mark.parametrize("code", ["import bertft", "import bertft.cli; bertft.cli.parser()"])
def test_import_and_help_load_nothing_heavy(code: str) -> None:
    code += f"; import sys; print(*sorted({HEAVY!r} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []


FIRST_RSA = """
import numpy as np, sys
from bertft import rsa
x = np.random.default_rng(0).standard_normal((40, 6))
assert rsa(x, x) > 0.99
"""


def test_the_first_rsa_of_arrays_loads_no_compiler_and_no_torch() -> None:
    code = f"{FIRST_RSA}print(*sorted({HEAVY!r} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []
