"""The Triton kernels as machine code for sm_80 and sm_90, compiled without a GPU: tensor cores used, nothing spilled.

`python tests/test_triton_compiled.py` prints the table. The tests run it in a process of its own, because
TRITON_INTERPRET, which the other tests need, changes what the decorator of a kernel makes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import bertft

SHARED = {80: 163 << 10, 90: 227 << 10}
"""Bytes of shared memory that one program may use."""

TILED = ("pearson", "histogram", "rank_products", "norms", "products", "distance_loss")
CASES = [
    f"{kernel} {variant}".strip()
    for kernel, variants in {
        "pearson": ("float32 identity", "float32 euclidean", "float32 rbf", "float64 euclidean", "float64 rbf"),
        "histogram": ("float32 identity", "float32 rbf", "float64 euclidean"),
        "rank_products": ("float32 identity", "float32 rbf", "float64 euclidean"),
        "norms": ("float32", "float64"),
        "products": ("float32", "float64"),
        "shift": ("float32", "float64"),
        "rows": ("",),
        "halves": ("",),
        "distance_loss": ("short int16", "long int16", "long float32"),
        "sentence_halves": ("",),
    }.items()
    for variant in variants
]


@pytest.fixture(scope="module")
def compiled(needs_triton):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(bertft.__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, __file__, "--json"], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return {(row["case"], row["arch"]): row for row in json.loads(done.stdout)}


@pytest.mark.parametrize("arch", SHARED)
@pytest.mark.parametrize("case", CASES)
def test_machine_code(compiled, case, arch):
    row = compiled[case, arch]
    assert row["stack"] == 0, "registers were spilled"
    assert row["registers"] <= 255
    assert row["registers"] * row["warps"] * 32 <= 65536
    assert row["shared"] <= SHARED[arch]
    if case.split()[0] in TILED:
        # Tiles of fewer than 64 rows and float64 have no wgmma.
        wide = arch == 90 and not any(word in case for word in ("short", "float64"))
        assert row["instructions"] == ["wgmma" if wide else "mma.sync"]


def compile_case(case: str, arch: int) -> dict[str, object]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from bertft.kernels import triton_distance_loss, triton_gram, triton_moments, triton_tiles
    from bertft.kernels.types import CONSTANT

    name, dtype, link, *_ = [*case.split(), "", ""]
    double = dtype == "float64"
    modules = triton_gram, triton_tiles, triton_moments, triton_distance_loss
    (kernel,) = {getattr(module, f"{name}_kernel") for module in modules if hasattr(module, f"{name}_kernel")}
    if name == "distance_loss":
        tile = triton_distance_loss.TILES[dtype]
    else:
        tile = triton_gram.TILES[
            "float32 on sm_90"
            if name in ("pearson", "products") and (dtype, arch) == ("float32", 90)
            else dtype or "float32"
        ]
    constants = {
        "BLOCK": tile.block if name in TILED else 1024,
        "COLUMNS": {"rows": triton_moments.COLUMNS, "shift": 64, "sentence_halves": 64}.get(name, tile.columns),
        "BLOCK_K": tile.block_k,
        "HALVES": not double,
        "GROUP": triton_tiles.GROUP,
        "LINK": link,
        "X_LINK": link,
        "Y_LINK": link,
        "MAP": "centred_unit",
        "CONSTANT": CONSTANT,
        "WRITE": True,
        "ROWS": 32 if name == "sentence_halves" else 8,
        "SPAN": triton_moments.SPAN,
        "column_stride": 1,
    }
    value = "*fp64" if double else "*fp32"
    types = {
        "high": "*fp64" if double else "*fp16",
        "offset": value,
        "shrink": "*fp32",
        "first": "*i32",
        "counts": "*i64",
    }
    types |= {"low": types["high"], "x": "*fp64" if double else "*bf16", "magnify": "*fp32", "strips": value}
    types |= {
        "projected": "*fp32",
        "gradient": "*fp32",
        "lengths": "*i64",
        "gold": "*i16" if link == "int16" else "*fp32",
    }
    types |= {"vectors": "*fp32"} | ({"scale": "*fp32"} if name == "halves" else {})
    signature, attributes = {}, {}
    for position, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
            continue
        stem = re.sub("^[xy]_(?!ptr)", "", argument)
        if stem.endswith("_ptr"):
            signature[argument] = types.get(stem.removesuffix("_ptr"), "*fp64")
        else:
            wide = stem in ("n", "start", "height") and name != "sentence_halves"  # a sentence's numbers are small
            signature[argument] = "i64" if wide else "i32"
        if stem.endswith(("_ptr", "stride", "width")):
            attributes[(position,)] = [["tt.divisibility", 16]]
    chosen = {argument: constants[argument] for argument, kind in signature.items() if kind == "constexpr"}
    warps, stages = (tile.num_warps, tile.num_stages) if name in TILED else (4, 3)
    made = triton.compile(
        ASTSource(kernel, signature, constexprs=chosen, attrs=attributes),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True},
    )
    resources = _resource_usage(made.asm["cubin"])
    return {
        "case": case,
        "arch": arch,
        "warps": warps,
        "registers": int(resources["REG"]),
        "stack": int(resources["STACK"]) + int(resources["LOCAL"]),
        "shared": made.metadata.shared,
        "instructions": sorted(
            set(re.findall(r"\b(wgmma|mma\.sync)\b", re.sub(r"wgmma\.(?!mma_async)\w+", "", made.asm["ptx"])))
        ),
    }


def _resource_usage(cubin: bytes) -> dict[str, str]:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    return dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text))


if __name__ == "__main__":
    rows = [compile_case(case, arch) for arch in SHARED for case in CASES]
    if "--json" in sys.argv:
        print(json.dumps(rows))
    else:
        for row in rows:
            print(*row.values(), sep="\t")
