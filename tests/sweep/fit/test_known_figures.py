"""Figures known from llama.cpp's logs and published files, computed from the configs of the catalogue alone."""

from pathlib import Path

import pytest

from converters.errors import InputError, MissingRuntime
from converters.llamacpp import rpc
from sweep.commands.fit import fit
from sweep.fit.fit_report import FitOptions, FitReport, FitRow
from sweep.fit.hardware import Device

MIB, GIB = 1 << 20, 1 << 30
HUGE = Device("a gpu", "cuda", 2 << 40, 2 << 40, 1e12, True, GIB)
with_rpc = pytest.mark.skipif(not rpc.supported(), reason="this build of llama.cpp has no RPC")


def gpu(gib: float, name: str = "a gpu", bandwidth: float = 1e12) -> Device:
    return Device(name, "cuda", int(gib * GIB), int(gib * GIB), bandwidth, True, GIB)


def one(model: str, quant: str, context: int, *devices: Device, **options: object) -> FitRow:
    (row,) = fit(model, [quant], devices or [HUGE], FitOptions(context, **options)).rows
    return row


@with_rpc
def test_qwen3_4b_needs_on_a_gpu_what_its_cuda_log_shows() -> None:
    row = one("Qwen3-4B", "Q4_K_M", 4096)
    gpu, host = row.shares
    assert row.figures["weights"].bytes - host.weights_bytes == gpu.weights_bytes
    assert gpu.weights_bytes / MIB == pytest.approx(2375.91, abs=0.005)
    assert gpu.kv_bytes == 576 * MIB
    assert gpu.compute_bytes / MIB == pytest.approx(301.75, abs=0.005)
    assert one("Qwen3-4B", "Q4_K_M", 8192).shares[0].kv_bytes == 1152 * MIB


@pytest.mark.parametrize(
    ("model", "kib"), [("Qwen3.6-35B-A3B", 20), ("Qwen3-30B-A3B", 96), ("Qwen3.5-397B-A17B", 30), ("Qwen3-4B", 144)]
)
def test_kv_bytes_per_token_are_the_known_ones(model: str, kib: int) -> None:
    assert one(model, "Q2_K", 8192).figures["kv"].bytes == 8192 * kib * 1024


@pytest.mark.parametrize(("model", "mib"), [("Qwen3.6-35B-A3B", 62.8125), ("Qwen3.5-27B", 149.625), ("Qwen3-4B", 0)])
@pytest.mark.parametrize("parallel", [1, 4])
def test_recurrent_state_per_sequence_is_the_known_one(model: str, mib: float, parallel: int) -> None:
    assert one(model, "Q2_K", 4096, parallel=parallel).figures["recurrent"].bytes == mib * MIB * parallel


def test_many_sequences_are_computed_without_allocating_their_state() -> None:
    row = one("Qwen3.5-27B", "Q2_K", 512, parallel=256)  # 37 GiB of state
    assert row.figures["recurrent"].bytes == 149.625 * MIB * 256
    assert row.figures["kv"].bytes == 256 * 512 * 64 * 1024


@with_rpc
def test_the_largest_model_at_two_bits_does_not_fit_on_two_gpus_of_48_gb() -> None:
    gpus = [gpu(47.5, "RTX 6000 Ada"), gpu(47.5, "RTX 6000 Ada")]
    report = fit("Qwen3.5-397B-A17B", ["Q2_K", "Q2_K_XL"], gpus, FitOptions(8192))
    for row in report.rows:
        assert not row.fits
        assert row.headroom_bytes < -40 * GIB
        assert row.max_context is None
        assert row.partial  # with experts in RAM it runs
        assert row.cpu_moe_layers > 15
        assert all(share.free_bytes >= 0 for share in row.shares)
    weights = report.rows[0].figures["weights"]
    assert weights.bytes / GIB == pytest.approx(134.8, abs=0.05)
    assert "multi-token prediction" in weights.formula


@with_rpc
@pytest.mark.parametrize(
    ("model", "gpus"),
    [
        ("Qwen3-32B", [gpu(24)]),
        ("Qwen3.6-27B", [gpu(24)]),  # its buffers do not grow steadily with the context
        ("Qwen3.5-27B", [gpu(16), gpu(12)]),
    ],
)
def test_the_longest_context_fits_and_512_more_tokens_do_not_fit(model: str, gpus: list[Device]) -> None:
    longest = one(model, "Q4_K_M", 4096, *gpus).max_context
    assert longest is not None
    assert longest % 256 == 0
    there = one(model, "Q4_K_M", longest, *gpus)
    assert there.fits
    assert there.max_context is not None
    assert 0 <= there.max_context - longest <= 512
    assert not one(model, "Q4_K_M", there.max_context + 512, *gpus, offload="none").fits


def ram(gib: float) -> Device:
    return Device("RAM", "cpu", int(gib * GIB), int(gib * GIB), 50e9, True, GIB)


@with_rpc
@pytest.mark.parametrize(
    ("model", "devices"),
    [
        ("Qwen3-32B", [gpu(8), ram(20)]),  # whole layers go to RAM, with their KV cache
        pytest.param("Qwen3.6-35B-A3B", [gpu(12), ram(12)], marks=pytest.mark.slow),  # experts do
        pytest.param("Qwen3.5-122B-A10B", [gpu(24), gpu(12), ram(44)], marks=pytest.mark.slow),
    ],
    ids=["dense", "experts", "two GPUs"],
)
def test_the_longest_context_with_ram_runs_and_512_more_tokens_do_not_run(model: str, devices: list[Device]) -> None:
    """With that context, the same search places more of the model in RAM, and nothing is left to give there."""
    first = one(model, "Q4_K_M", 4096, *devices)
    longest = first.max_context_with_ram
    assert longest is not None
    assert longest % 256 == 0
    assert longest > 4096
    there = one(model, "Q4_K_M", longest, *devices)
    assert there.partial
    assert all(share.free_bytes >= 0 for share in there.shares)
    assert there.shares[-1].total_bytes > first.shares[-1].total_bytes
    assert there.max_context_with_ram is not None
    assert 0 <= there.max_context_with_ram - longest <= 512
    beyond = one(model, "Q4_K_M", there.max_context_with_ram + 512, *devices)
    assert not beyond.fits
    assert not beyond.partial


@with_rpc
def test_only_what_can_move_to_ram_has_a_longest_context_with_it() -> None:
    assert one("Qwen3-0.6B", "Q8_0", 512, gpu(1.5)).max_context_with_ram == 40960  # any amount of RAM
    assert one("Qwen3-0.6B", "Q8_0", 512, gpu(1.5), offload="none").max_context_with_ram is None
    assert one("Qwen3-0.6B", "Q8_0", 512, ram(6)).max_context_with_ram is None
    apple = Device("M2", "metal", 16 * GIB, 12 * GIB, 100e9, True, GIB)
    assert one("Qwen3-0.6B", "Q8_0", 512, apple).max_context_with_ram is None
    assert one("Qwen3-32B", "Q8_0", 512, gpu(8), ram(16)).max_context_with_ram is None  # too large with any context


@with_rpc
def test_with_offload_none_all_layers_are_on_the_devices() -> None:
    row = one("Qwen3-30B-A3B", "Q4_K_M", 8192, gpu(12), offload="none")
    assert not row.fits
    assert not row.partial
    assert row.gpu_layers == row.n_layers
    assert row.cpu_moe_layers == 0
    assert row.shares[0].free_bytes < 0
    assert row.headroom_bytes == row.shares[0].free_bytes


@with_rpc
def test_layers_are_divided_among_unequal_gpus_by_their_memory() -> None:
    row = one("Qwen3-32B", "Q4_K_M", 8192, gpu(24), gpu(12))
    assert row.fits
    assert sum(row.tensor_split) == row.gpu_layers == row.n_layers == 65
    assert row.tensor_split[0] > row.tensor_split[1] > 0
    assert "-ts" in row.arguments


def test_shared_memory_is_counted_once() -> None:
    apple = Device("M2", "metal", 16 * GIB, 12 * GIB, 100e9, True, GIB)
    row = one("Qwen3-14B", "Q4_K_M", 4096, apple)
    gpu, host = row.shares
    assert row.fits == (gpu.total_bytes + host.total_bytes <= 11 * GIB)
    assert not one("Qwen3-32B", "Q4_K_M", 4096, apple).partial  # layers in RAM would need the same memory


def test_the_decode_bound_counts_only_active_experts() -> None:
    dense, sparse = one("Qwen3-32B", "Q4_K_M", 512), one("Qwen3-30B-A3B", "Q4_K_M", 512)
    assert dense.decode_bound is not None
    assert sparse.decode_bound is not None
    # 3.3 of 30.5 B weights are active, and embeddings are not read: about 500 tokens per second at 1 TB/s and 4.9 bits.
    assert 1e12 / (3.4e9 * 4.9 / 8) < sparse.decode_bound < 1e12 / (2.7e9 * 4.9 / 8)
    assert dense.decode_bound == pytest.approx(
        1e12 / (dense.shares[0].weights_bytes + dense.shares[0].kv_bytes), rel=0.01
    )


@with_rpc
@pytest.mark.parametrize("model", ["Qwen3-4B", "Qwen3-30B-A3B", "Qwen3.5-27B"])
@pytest.mark.parametrize("gpus", [[gpu(80)], [gpu(40), gpu(40)], [gpu(6)]], ids=len)
def test_without_rpc_compute_buffers_are_estimated_and_not_too_small(
    model: str, gpus: list[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = fit(model, ["Q4_K_M"], gpus, FitOptions(32768))
    monkeypatch.setattr(rpc, "supported", lambda: False)
    estimated = fit(model, ["Q4_K_M"], gpus, FitOptions(32768))
    assert any("RPC" in note for note in estimated.notes)
    assert not any("RPC" in note for note in computed.notes)
    (row,), (truth,) = estimated.rows, computed.rows
    assert (truth.placed_by, row.placed_by) == ("rpc", "estimate")
    assert "estimate" in row.figures["compute"].source
    assert row.figures["kv"] == truth.figures["kv"]
    assert row.gpu_layers <= truth.gpu_layers
    if row.tensor_split == truth.tensor_split and row.fits:
        for one, other in zip(row.shares[:-1], truth.shares[:-1], strict=True):
            assert other.compute_bytes <= one.compute_bytes < other.compute_bytes + 2 * GIB


@with_rpc
def test_figures_are_estimates_if_the_rpc_server_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "_SERVER", Path("nowhere.py"))
    with pytest.raises(MissingRuntime), rpc.simulated_devices(1):
        pass
    assert one("Qwen3-4B", "Q4_K_M", 4096).placed_by == "estimate"


def test_int8_rows_are_computed_by_formulas() -> None:
    report = fit("Qwen3-4B", ["int8:sq", "int8:sq-ph-dyn"], [gpu(24)], FitOptions(4096))
    for row in report.rows:
        assert row.kind == "int8"
        assert row.placed_by == "formula"
        # 3.63 B weights of linear layers with one byte each, 0.39 B of embeddings with two.
        assert row.figures["weights"].bytes == pytest.approx(3.633e9 + 2 * 0.389e9, rel=0.01)
        assert row.figures["kv"].bytes == 576 * MIB
        assert row.fits


def every() -> FitReport:
    return fit("Qwen3-0.6B", [], [HUGE], FitOptions(4096))


def test_all_variants_are_reported_if_none_is_named() -> None:
    names = [row.variant for row in every().rows]
    assert {"BF16", "Q8_0", "Q4_K_M", "Q2_K_XL", "IQ1_S", "int8:sq-ph-dyn"} <= set(names)
    assert len(names) == len(set(names)) > 35


def test_every_figure_has_a_source_and_a_formula() -> None:
    for row in every().rows:
        assert set(row.figures) == {"weights", "kv", "recurrent", "compute", "output", "projector", "reserve"}
        assert all(figure.source and figure.formula for figure in row.figures.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FitOptions(140_000), "40960 tokens, and with YaRN 131072"),
        (FitOptions(-1), "context is -1"),
        (FitOptions(512, kv_type_k="q3_k"), "q3_k"),
        (FitOptions(512, parallel=1000), "parallel"),
        (FitOptions(512, kv_type_v="q8_0", flash_attention=False), "flash attention"),
    ],
)
def test_invalid_options_are_rejected_with_one_line(options: FitOptions, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        fit("Qwen3-4B", ["Q4_K_M"], [HUGE], options)
    assert "\n" not in str(error.value)


def test_more_devices_than_llama_cpp_supports_are_rejected_with_one_line() -> None:
    with pytest.raises(InputError, match=r"16 GPUs; llama\.cpp can divide a model among at most 15"):
        fit("Qwen3-4B", ["Q4_K_M"], [gpu(1)] * 16, FitOptions(512))


@pytest.mark.parametrize("variant", ["Q4_K_N", "int8:sqq", "gguf:nowhere.gguf"])
def test_variants_that_there_are_not_are_refused_in_one_line(variant: str) -> None:
    with pytest.raises(InputError) as error:
        fit("Qwen3-4B", [variant], [HUGE], FitOptions(512))
    assert "\n" not in str(error.value)
