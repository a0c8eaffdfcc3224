"""Triton compiles every kernel with every entry of tiles, for GPUs that need not be present."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels are Triton's")

COMPILE = """
import re, subprocess, sys, tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from int8.kernels import attention, gemm, skinny, tokens, tuning, weight_only

FLOATS = {"scales", "column_scales", "input_scale", "q_scale", "k_scale", "v_scale"}
INTS = {"zero_points", "row_sums", "parts", "arrivals", "input_zero_point", "q_zero_point", "v_zero_point"}
BYTES = {"weight", "q", "k", "v"}
ALIGNED = {"N", "K", "columns", "stride"}
FLAGS = {"PER_TOKEN": True, "STATIC": False, "SYMMETRIC": False, "BIAS": True, "CAUSAL": True, "MASKED": False}
RESOURCES = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def kind(name, kernel):
    if name in FLOATS:
        return "*fp32"
    if name in INTS:
        return "*i32"
    if name in BYTES or (name == "x" and kernel in (gemm._gemm,)) or (name == "out" and "quantize" in kernel.__name__):
        return "*i8"
    return {"x": "*bf16", "out": "*bf16", "bias": "*bf16", "mask": "*u8", "scaling": "fp32"}.get(name, "i32")


def build(kernel, constants, warps, stages, capability, blocks=()):
    names = kernel.arg_names
    constants = {name: value for name, value in {**FLAGS, **constants}.items() if name in names}
    types = {name: "constexpr" if name in constants else kind(name, kernel) for name in names}
    for name, block in blocks:
        types[name] = f"tensordesc<i8[{block[0]}, {block[1]}]>"
    aligned = [i for i, name in enumerate(names) if types[name].startswith("*") or name in ALIGNED - set(constants)]
    source = ASTSource(
        fn=kernel, signature=types, constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    target = GPUTarget("cuda", capability, 32)
    built = triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        used = subprocess.run([RESOURCES, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    product = sorted(set(re.findall(r"(?:wgmma|mma)\\.[^ ]*", built.asm["ptx"])))
    bulk = "cp.async.bulk.tensor" in built.asm["ptx"]
    spilled = int(re.search(r"STACK:(\\d+)", used)[1])
    print(kernel.__name__, constants, warps, "|", spilled, "|", built.metadata.shared, "|", bulk, "|", product)


KERNELS = {
    "gemm": gemm._gemm, "persistent": gemm._persistent, "skinny": skinny._skinny, "gemv": skinny._gemv,
    "weight gemv": weight_only._weight_gemv, "weight gemm": weight_only._weight_gemm,
}
capability = int(sys.argv[1])
for name, kernel in KERNELS.items():
    if name == "persistent" and capability < 90:
        continue
    for tiles in dict.fromkeys(tuning.TILES[name]):
        meta = tuning.meta(tiles, kernel)
        warps, stages = meta.pop("num_warps"), meta.pop("num_stages")
        blocks = [("x", (tiles.bm, tiles.bk)), ("weight", (tiles.bn, tiles.bk))] if name == "persistent" else []
        build(kernel, meta, warps, stages, capability, blocks)
build(tokens._quantize, {"BLOCK": 4096}, 8, 3, capability)
build(attention._quantize_heads, {"WIDTH": 128, "BLOCK": 32}, 4, 3, capability)
for width in attention.WIDTHS:
    for masked in (False, True):
        block, warps, columns = attention.blocks(4096, width, masked)
        meta = {"WIDTH": width, "MASKED": masked, "BM": block, "BN": columns}
        build(attention._attention, meta, warps, 3, capability)
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 120])
def test_every_kernel_compiles_to_matrix_instructions_and_keeps_its_sums_in_registers(capability, tmp_path):
    script = tmp_path / "compile_kernels.py"
    script.write_text(COMPILE)
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, script, str(capability)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split(" | ") for line in done.stdout.splitlines()]
    assert len(lines) > 40
    for name, spilled, _, bulk, product in lines:
        if "gemv" in name or "quantize" in name:
            assert product == "[]", name
            continue
        assert "mma" in product, name
        assert (bulk == "True") == name.startswith("_persistent"), name
        if capability == 90:
            assert int(spilled) <= 64, name  # bytes per thread: from the epilogue, not from the sums
            if "'BM': 128" in name:
                assert "wgmma" in product, name
