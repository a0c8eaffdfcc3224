"""Figures of a fit equal those of llama.cpp when it really loads the model, in RAM and on devices."""

import itertools
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from real_load import MIB, ROUNDING, real_allocation
from tiny_configs import ARCHITECTURES, write_config

from converters.llamacpp import rpc
from converters.llamacpp.ghost import ghost
from converters.llamacpp.load import LoadOptions
from converters.llamacpp.memory import context_memory, loaded_ghost
from converters.plan import plan_file
from converters.recipes import recipe
from converters.resolver import Need, open_source
from sweep.fit.contexts import context_options
from sweep.fit.fit_model import fit_model
from sweep.fit.fit_report import FitOptions, FitRow
from sweep.fit.hardware import Device

RAM = Device("RAM", "cpu", 64 << 30, 64 << 30, 50e9, True, 0)
OPTIONS = [
    FitOptions(4096),
    FitOptions(1000, kv_type_k="q8_0", kv_type_v="q8_0", ubatch=128),
    FitOptions(2048, kv_type_k="bf16", kv_type_v="bf16", parallel=4),
    FitOptions(512, kv_type_k="q4_0", kv_type_v="q5_1", parallel=2, ubatch=256, batch=512),
    FitOptions(8192, flash_attention=False, ubatch=64),
]
PARTS = {"kv": "KV", "recurrent": "RS", "compute": "compute", "output": "output"}


def files_of(directory: Path, quant: str) -> AbstractContextManager[Path]:
    """The file of the quant with zeros as weights, which llama.cpp loads like any other file."""
    source = open_source(str(directory), need=Need.PLAN)
    with ghost(source.structure, source.tensors) as path:
        plan = plan_file(source, recipe(quant), path)
    return ghost(source.structure, plan.tensors)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_part_in_ram_equals_that_of_a_real_load(architecture: str, options: FitOptions, tmp_path: Path) -> None:
    directory = write_config(tmp_path / "model", architecture)
    (row,) = fit_model(str(directory), ["Q4_K_M"], [RAM], options).rows
    with files_of(directory, "Q4_K_M") as path:
        real = real_allocation(path, LoadOptions(), context_options(options, options.context, options.parallel))
    for part, kind in PARTS.items():
        assert row.figures[part].bytes == pytest.approx(real["CPU", kind], abs=ROUNDING), part
    # The weights of matrices that the CPU repacks are in two buffers, each of them padded.
    assert row.figures["weights"].bytes == pytest.approx(real["CPU", "model"], abs=3 * ROUNDING)
    assert row.total_bytes == sum(row.figures[part].bytes for part in (*PARTS, "weights"))


def gpu(size: float, index: int = 0) -> Device:
    return Device(f"gpu {index}", "cuda", int(size * MIB), int(size * MIB), 1e12, True, 0)


PLACES = list(
    itertools.product(ARCHITECTURES, [(400.0,), (400.0, 400.0), (300.0, 90.0), (60.0, 60.0), (57.0,), (20.0, 60.0)])
)


@pytest.mark.skipif(not rpc.supported(), reason="this build of llama.cpp has no RPC")
@pytest.mark.parametrize(("architecture", "sizes"), PLACES, ids=str)
def test_every_part_on_every_device_equals_that_of_a_real_load(
    architecture: str, sizes: tuple[float, ...], tmp_path: Path
) -> None:
    options = FitOptions(2048, ubatch=128)
    directory = write_config(tmp_path / "model", architecture, vocab_size=65536)
    devices = [gpu(size, index) for index, size in enumerate(sizes)]
    (row,) = fit_model(str(directory), ["Q4_K_M"], devices, options).rows
    with files_of(directory, "Q4_K_M") as path, rpc.simulated_devices(len(sizes)) as remote:
        load = load_options(row)
        real = real_allocation(path, load, context_options(options, options.context, 1), remote)
    places = [device.buffer for device in remote] + ["CPU"]
    for place, share in zip(places, row.shares, strict=True):
        assert share.kv_bytes == pytest.approx(real[place, "KV"], abs=ROUNDING), place
        assert share.recurrent_bytes == pytest.approx(real[place, "RS"], abs=ROUNDING), place
        assert share.weights_bytes == pytest.approx(real[place, "model"], abs=3 * ROUNDING), place
        assert share.output_bytes == pytest.approx(real[place, "output"], abs=ROUNDING), place
        # Compute buffers are those of a placement of the same kind: never smaller than those of this placement.
        assert real[place, "compute"] <= 2 * ROUNDING + share.compute_bytes, place


@pytest.mark.skipif(not rpc.supported(), reason="this build of llama.cpp has no RPC")
@pytest.mark.parametrize(
    ("architecture", "mib"),
    [
        ("qwen3moe", 80),
        pytest.param("qwen3", 70, marks=pytest.mark.slow),
        pytest.param("qwen35moe", 110, marks=pytest.mark.slow),
    ],
)
def test_the_longest_context_with_ram_is_really_allocated_within_the_memory(
    architecture: str, mib: int, tmp_path: Path
) -> None:
    """A real load of it needs no more than there is, and that of 512 more tokens does."""
    directory = write_config(tmp_path / "model", architecture, vocab_size=65536, max_position_embeddings=1 << 20)
    devices = [replace(gpu(60), kind="rpc"), replace(RAM, total_bytes=mib * MIB, usable_bytes=mib * MIB)]
    (short,) = fit_model(str(directory), ["Q4_K_M"], devices, FitOptions(2048, ubatch=128)).rows
    assert short.max_context_with_ram is not None
    for more, is_within in ((0, True), (512, False)):
        options = FitOptions(short.max_context_with_ram + more, ubatch=128)
        (row,) = fit_model(str(directory), ["Q4_K_M"], devices, options).rows
        assert row.partial == is_within
        with files_of(directory, "Q4_K_M") as path, rpc.simulated_devices(1) as remote:
            real = real_allocation(path, load_options(row), context_options(options, options.context, 1), remote)
        in_ram = sum(size for (place, _), size in real.items() if place == "CPU")
        on_device = sum(size for (place, _), size in real.items() if place != "CPU")
        assert on_device <= 60 * MIB + 3 * ROUNDING
        assert (in_ram <= mib * MIB + 3 * ROUNDING) == is_within


@pytest.mark.skipif(not rpc.supported(), reason="this build of llama.cpp has no RPC")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_memory_of_a_context_does_not_depend_on_the_quant(architecture: str, tmp_path: Path) -> None:
    directory = write_config(tmp_path / "model", architecture)
    options = context_options(FitOptions(4096), 4096, 1)
    found = set()
    for quant in ("F32", "Q8_0", "Q4_K_M", "IQ1_S"):
        with files_of(directory, quant) as path, rpc.simulated_devices(2) as devices:
            for load in (LoadOptions(99, tensor_split=(1, 1)), LoadOptions(4, 1, (1, 1)), LoadOptions()):
                with loaded_ghost(path, load, devices) as model:
                    found.add((load, context_memory(model, options, devices)))
    assert len(found) == 3


def load_options(row: FitRow) -> LoadOptions:
    """The load options that the row's arguments describe."""
    words = row.arguments.split(" ")
    value = {word: words[index + 1] for index, word in enumerate(words) if word.startswith("-")}
    overrides = []
    for entry in value.get("-ot", "").strip("'").split(","):
        pattern, _, place = entry.rpartition("=")
        if pattern:
            overrides.append((pattern, None if place == "CPU" else int(place.removeprefix("CUDA"))))
    split = tuple(map(float, value["-ts"].split(","))) if "-ts" in value else ()
    return LoadOptions(int(value["-ngl"]), tensor_split=split, tensor_overrides=tuple(overrides))
