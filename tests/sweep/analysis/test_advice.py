"""The advice: which candidate is chosen, which are excluded, and why."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
from fit_reports import GIB, report, row, three

from presets.advice import advice_rules
from presets.quality import quality_priors
from sweep.analysis.advice import advise, to_json
from sweep.analysis.candidate import AdvisedPlacement
from sweep.analysis.fit_candidates import Losses, MeasuredSpeed, Measurements, estimated_speed, fit_candidates
from sweep.analysis.priors import MeasuredKld, RelativeKld, expected_int8_klds, expected_klds
from sweep.fit.fit_report import FitReport, FitRow
from sweep.fit.hardware import Device, parse_devices
from sweep.fit.weight_types import WeightTypes

GPU = parse_devices(["RTX 3090"])  # 936 GB/s


NOTHING = Measurements()


def measured(**klds: float) -> Measurements:
    return Measurements({name: MeasuredKld(kld, kld / 20, "BF16", "a") for name, kld in klds.items()})


def read(made: FitRow, *gigabytes: float, **changes: object) -> FitRow:
    """The row with the bytes that a token reads from each place."""
    shares = zip(made.shares, gigabytes, strict=True)
    return replace(made, shares=tuple(replace(share, read_bytes=int(gb * 1e9)) for share, gb in shares), **changes)


def ladder(*variants: tuple[str, float, float], devices: list[Device] = GPU) -> FitReport:
    """Variants (name, GiB, bits) that are read whole from the GPU for each token."""
    rows = [read(row(name, size, bits, devices), size * GIB / 1e9, 0.0) for name, size, bits in variants]
    return report(rows, devices, architecture="qwen3")


def chosen(found: FitReport, **klds: float) -> str | None:
    pick = advise(found.model, fit_candidates(found, measured(**klds))).pick
    return None if pick is None else pick.variant


def test_an_expected_divergence_is_the_mean_over_the_weights() -> None:
    priors = quality_priors()
    half = WeightTypes({"Q4_K": 0.5, "Q6_K": 0.5}, 8 * 10**9, 8 * 10**9)
    (found,) = expected_klds({"mix": half}, "qwen35", {}).values()
    pure = [priors.types[name].kld for name in ("Q4_K", "Q6_K")]
    assert found.value == pytest.approx(priors.published * sum(pure) / 2)
    assert log(found.high / found.value) == pytest.approx(1.96 * priors.spread, rel=1e-3)
    assert found.low * found.high == pytest.approx(found.value**2)


def test_experts_count_by_the_geometric_mean_of_all_and_used_weights() -> None:
    experts = WeightTypes({"Q4_K": 1.0}, 32 * 10**9, 2 * 10**9)
    dense = WeightTypes({"Q4_K": 1.0}, 8 * 10**9, 8 * 10**9)
    found = expected_klds({"experts": experts, "dense": dense}, "qwen35moe", {})
    assert found["experts"] == found["dense"]


def test_a_type_without_published_measurements_has_no_expected_divergence() -> None:
    assert expected_klds({"one": WeightTypes({"TQ1_0": 1.0}, 10**9, 10**9), "int8:sq": None}, "qwen3", {}) == {}


def test_int8_recipes_have_expectations_from_published_perplexities() -> None:
    found = expected_int8_klds({"a": "w8a8-dyn", "b": "sq", "c": "w8a16", "d": "w8a8"}, 8e9, "qwen3")
    assert set(found) == {"a", "b", "c"}  # nothing was published about w8a8
    # arXiv 2505.02214, table 1: W8A8 of five sizes of Qwen3, WikiText-2
    pairs = ((12.7, 13.0), (9.39, 9.65), (7.90, 8.13), (6.99, 7.43), (6.38, 6.62))
    logs = [log(quantized / plain) for plain, quantized in pairs]
    assert min(logs) < found["a"].value / 1.2 < max(logs)
    assert found["a"].low < 1.2 * min(logs)
    assert 1.2 * max(logs) < found["a"].high
    assert found["b"].value == pytest.approx(1.2 * log(2.79))  # +179 %, of one size only, so it is less certain
    assert found["b"].high / found["b"].low > 2 * found["a"].high / found["a"].low
    q8_0 = expected_klds({"Q8_0": WeightTypes({"Q8_0": 1.0}, 8 * 10**9, 8 * 10**9)}, "qwen3", {})["Q8_0"]
    assert found["c"].value == pytest.approx(2.5 * q8_0.value)
    assert found["c"].high / found["c"].low > q8_0.high / q8_0.low
    assert all(one.is_weak and one.source == "prior" and one.basis for one in found.values())
    assert not q8_0.is_weak


def int8(recipe: str, size: float, devices: list[Device] = GPU) -> FitRow:
    changes = {"kind": "int8", "recipe": recipe, "weight_types": None, "arguments": ""}
    return read(row(f"int8:{recipe}", size, 8.3, devices, **changes), size * GIB / 1e9, 0.0)


def test_an_int8_variant_is_not_chosen_for_a_weak_expectation() -> None:
    poor = ladder(("Q3_K_M", 3.9, 3.9))
    both = replace(poor, rows=(*poor.rows, int8("w8a16", 8.2), int8("sq", 8.2), int8("w8a8", 8.2)))
    found = fit_candidates(both, NOTHING)
    advice = advise("m", found)
    assert advice.variant == "Q3_K_M"
    assert advice.pick is not None
    lower = next(one for one in found if one.variant == "int8:w8a16")
    assert lower.loss < advice.pick.loss
    assert lower.tokens_per_s == pytest.approx(936e9 * 0.6 / (8.2 * GIB))
    assert advice.better is None
    assert "only by its rounding error against Q8_0" in advice.why_not("int8:w8a16")
    assert {one.variant: "beyond use" in one.reason for one in advice.excluded} == {"int8:sq": True, "int8:w8a8": False}
    smaller_cache = replace(both, kv_type="q8_0")  # llama.cpp's; torch has its own
    (same,) = [one for one in fit_candidates(smaller_cache, NOTHING) if one.variant == "int8:w8a16"]
    assert same == lower


def test_an_int8_variant_is_chosen_if_it_was_measured_or_nothing_else_is_there() -> None:
    poor = ladder(("Q3_K_M", 3.9, 3.9))
    both = replace(poor, rows=(*poor.rows, int8("w8a16", 8.2)))
    klds = {"Q3_K_M": MeasuredKld(0.09, 0.001, "BF16", "a"), "int8:w8a16": MeasuredKld(0.002, 0.0001, "BF16", "a")}
    assert advise("m", fit_candidates(both, Measurements(klds))).variant == "int8:w8a16"
    alone = advise("m", fit_candidates(replace(poor, rows=(int8("w8a16", 8.2),)), NOTHING))
    assert alone.variant == "int8:w8a16"
    assert "expected KL divergence, by its rounding error against Q8_0, is" in alone.reason
    assert to_json(alone, "m", ())["command"] == "vllm serve ./Qwen3-8B-w8a16 --max-model-len 8192"


def test_torch_on_a_cpu_has_no_estimate_of_its_speed() -> None:
    cpu = [Device("RAM", "cpu", 64 * GIB, 64 * GIB, 50e9, True, 0)]
    found = report([int8("w8a16", 8.2, cpu)], cpu, architecture="qwen3")
    (one,) = fit_candidates(found, NOTHING)
    assert (one.tokens_per_s, one.obstacle) == (None, "has no estimate of its speed")


def test_a_measurement_scales_the_expectations_near_it() -> None:
    weights = {name: WeightTypes({name: 1.0}, 8 * 10**9, 8 * 10**9) for name in ("Q4_K", "Q5_K", "Q6_K")}
    before = expected_klds(weights, "qwen3", {})
    after = expected_klds(weights, "qwen3", {"Q4_K": 2 * before["Q4_K"].value, "BF16": 0.0})
    assert after["Q5_K"].value == pytest.approx(2 * before["Q5_K"].value)
    assert after["Q5_K"].high / after["Q5_K"].low < before["Q5_K"].high / before["Q5_K"].low
    assert after["Q6_K"] == before["Q6_K"]  # about a ninth of Q4_K's: too far


def test_a_relative_scales_all_expectations_and_makes_them_less_uncertain() -> None:
    weights = {name: WeightTypes({name: 1.0}, 14 * 10**9, 14 * 10**9) for name in ("Q4_K", "Q2_K")}
    before = expected_klds(weights, "qwen3", {})
    small = expected_klds({"Q4_K": WeightTypes({"Q4_K": 1.0}, 4 * 10**9, 4 * 10**9)}, "qwen3", {})["Q4_K"]
    relative = RelativeKld("Q4_K", 1.5 * small.value, 4e9)
    after = expected_klds(weights, "qwen3", {}, [relative, RelativeKld("unknown", 1.0, 4e9)])
    for name in weights:
        assert after[name].value == pytest.approx(1.5 * before[name].value)
        assert after[name].high / after[name].low < before[name].high / before[name].low
    assert after["Q4_K"].source == "prior"
    own = expected_klds(weights, "qwen3", {"Q4_K": 0.01}, [relative])
    assert own["Q4_K"].value == pytest.approx(0.01)  # its own measurement comes first


def test_what_was_measured_comes_before_what_is_expected() -> None:
    found = ladder(("Q6_K", 6.3, 6.6), ("Q5_K_M", 5.5, 5.7))
    assert chosen(found) == "Q6_K"
    assert chosen(found, Q5_K_M=0.008) == "Q5_K_M"


def test_beyond_the_sizes_that_were_measured_the_nearest_one_counts() -> None:
    low, high = quality_priors().measured_sizes
    sizes = {"tiny": 10**6, "low": round(low), "high": round(high), "huge": 10**13}
    found = expected_klds({name: WeightTypes({"Q4_K": 1.0}, n, n) for name, n in sizes.items()}, "qwen3", {})
    assert found["tiny"].value == pytest.approx(found["low"].value)
    assert found["huge"].value == pytest.approx(found["high"].value)


def test_an_unknown_architecture_has_a_wider_interval() -> None:
    weights = {"one": WeightTypes({"Q4_K": 1.0}, 8 * 10**9, 8 * 10**9)}
    known, unknown = (expected_klds(weights, name, {})["one"] for name in ("qwen3", "llama"))
    assert unknown.high / unknown.low > known.high / known.low


def test_nobody_needs_more_than_an_unnoticeable_divergence() -> None:
    found = ladder(("BF16", 15.3, 16.0), ("Q8_0", 8.1, 8.5), ("Q6_K", 6.3, 6.6), ("Q5_K_M", 5.5, 5.7))
    assert chosen(found) == "Q6_K"


def test_older_types_are_chosen_only_if_they_were_measured() -> None:
    found = ladder(("Q4_1", 8.8, 5.0), ("Q4_K_M", 8.4, 4.9))
    assert chosen(found) == "Q4_K_M"
    assert chosen(found, Q4_1=0.005, Q4_K_M=0.03) == "Q4_1"
    (excluded,) = advise("m", fit_candidates(found, NOTHING)).excluded
    assert (excluded.variant, excluded.reason) == (
        "Q4_1",
        f"is not chosen unless it was measured: {advice_rules().not_chosen['Q4_1']}",
    )


def test_a_divergence_beyond_use_is_never_chosen() -> None:
    found = ladder(("IQ1_M", 3.6, 2.1))
    assert chosen(found) is None
    advice = advise("m", fit_candidates(found, NOTHING))
    assert "beyond use" in advice.excluded[0].reason
    assert advice.confidence == "cannot-tell"
    assert to_json(advice, "m", ())["variant"] is None


def test_a_measured_divergence_replaces_the_expected_one() -> None:
    found = ladder(("Q5_K_M", 5.5, 5.7), ("Q4_K_M", 4.9, 4.9))
    assert chosen(found, Q5_K_M=0.2, Q4_K_M=0.01) == "Q4_K_M"
    advice = advise("m", fit_candidates(found, measured(Q5_K_M=0.2, Q4_K_M=0.01)))
    assert advice.confidence == "measured"
    assert "measured KL divergence is 0.010 nats" in advice.reason


def test_speed_is_bandwidth_by_bytes_with_the_shares_that_llama_cpp_reaches() -> None:
    speed = advice_rules().speed
    found = ladder(("Q4_K_M", 5.0, 4.9))
    read_seconds = 5.0 * GIB / 1e9 / (936 * speed.devices)
    assert estimated_speed(found.rows[0], found) == pytest.approx(1 / read_seconds)
    in_ram = read(found.rows[0], 1.0, 2.0, fits=False, partial=True, gpu_layers=20)
    seconds = 1e9 / (936e9 * speed.devices) + 2e9 / (speed.ram_bandwidth * speed.ram)
    assert estimated_speed(in_ram, found) == pytest.approx(1 / seconds)
    experts = replace(in_ram, cpu_moe_layers=12, gpu_layers=37)
    seconds += 2e9 / speed.ram_bandwidth * (1 / speed.experts_in_ram - 1 / speed.ram)
    assert estimated_speed(experts, found) == pytest.approx(1 / seconds)
    unknown = replace(found, devices=tuple(parse_devices(["24GiB"])))
    assert estimated_speed(found.rows[0], unknown) == pytest.approx(speed.gpu_bandwidth * speed.devices / (5.0 * GIB))


def test_published_speeds_are_within_a_quarter_of_the_estimate() -> None:
    speed = advice_rules().speed

    def estimate(gpu: str, size: float, experts: tuple[float, float] | None = None) -> float:
        """Of a model of `size` bytes on the GPU and, with `experts`, (bytes, bandwidth) of experts in RAM."""
        (device,) = parse_devices([gpu])
        assert device.bandwidth is not None
        seconds = size / (device.bandwidth * speed.devices)
        return 1 / (seconds + (experts[0] / (experts[1] * speed.experts_in_ram) if experts else 0.0))

    assert estimate("RTX 5090", 5.03e9) == pytest.approx(
        221.7, rel=0.25
    )  # Qwen3-8B Q4_K_M, continuum pull request 1627
    assert estimate("RTX 4090", 6.6e9) == pytest.approx(
        93, rel=0.25
    )  # Llama 3 8B Q6_K, LLM-inference-speed-benchmarks 10
    # Qwen3-30B-A3B Q4_K_M with the experts of 36 of 48 layers in RAM: pull request 755 of llmfit
    assert estimate("RTX 2080", 1.1e9, (0.77e9, 102e9)) == pytest.approx(36.7, rel=0.25)


def test_a_speed_that_was_measured_with_this_placement_replaces_the_estimate() -> None:
    here = [replace(device, simulated=False) for device in GPU]
    found = ladder(("Q5_K_M", 5.5, 5.7), ("Q4_K_M", 4.9, 4.9), devices=here)
    on_gpu, in_ram = MeasuredSpeed(55.5, "f16", 999), MeasuredSpeed(9.0, "f16", 0)
    smaller_cache, part = MeasuredSpeed(50.0, "q8_0", 999), MeasuredSpeed(20.0, "f16", 12)
    speeds = Measurements(speeds={"Q4_K_M": (smaller_cache, part, in_ram, on_gpu)})

    def speed_of(found: FitReport) -> tuple[float | None, bool]:
        (one,) = [one for one in fit_candidates(found, speeds) if one.variant == "Q4_K_M"]
        return one.tokens_per_s, one.speed_is_measured

    estimate = estimated_speed(found.rows[1], found), False
    assert speed_of(found) == (55.5, True)
    assert speed_of(replace(found, kv_type="q8_0")) == (50.0, True)
    assert speed_of(replace(found, kv_type="bf16")) == estimate
    assert speed_of(replace(found, devices=tuple(GPU))) == estimate  # another machine
    assert speed_of(replace(found, draft="mtp")) == estimate
    partly = replace(found, rows=(replace(found.rows[1], fits=False, partial=True),))
    assert speed_of(partly) == (estimated_speed(partly.rows[0], partly), False)
    ram = ladder(("Q4_K_M", 4.9, 4.9), devices=[replace(here[0], kind="cpu")])
    assert speed_of(ram) == (9.0, True)

    slow = replace(on_gpu, tokens_per_s=1.0)
    both = Measurements(speeds={"Q4_K_M": (slow,), "Q5_K_M": (on_gpu,)})
    answer = to_json(advise("m", fit_candidates(found, both)), "m", ())
    assert (answer["variant"], answer["tokens_per_s"], answer["speed_source"]) == ("Q5_K_M", 55.5, "measured")
    assert [one["reason"] for one in answer["excluded"]] == ["is too slow: 1.0 tokens/s"]


def test_a_measured_speed_corrects_the_estimates_of_variants_that_are_placed_alike() -> None:
    here = [replace(device, simulated=False) for device in GPU]
    found = ladder(("Q5_K_M", 5.5, 5.7), ("Q4_K_M", 4.9, 4.9), ("Q2_K", 2.9, 3.0), devices=here)
    partly = replace(found.rows[2], fits=False, partial=True)
    estimates = [estimated_speed(row, found) or 0.0 for row in found.rows]
    measured = Measurements(speeds={"Q4_K_M": (MeasuredSpeed(0.1 * estimates[1], "f16", 999),)})

    def speeds(report: FitReport) -> list[float | None]:
        return [one.tokens_per_s for one in fit_candidates(report, measured)]

    assert speeds(found) == pytest.approx([0.1 * one for one in estimates])
    # so the smaller file is not called slower than the one that was measured to be slow
    assert advise("m", fit_candidates(found, measured)).smaller is not None
    in_ram = replace(found, rows=(*found.rows[:2], partly))
    assert speeds(in_ram)[2] == pytest.approx(estimated_speed(partly, in_ram))


def test_iq_types_in_ram_cost_speed() -> None:
    base = row("Q4_K_M", 5.0, 4.9, GPU, fits=False, partial=True)
    plain = read(base, 0.0, 2.0)
    iq = replace(plain, weight_types=WeightTypes({"IQ4_XS": 1.0}, 8 * 10**9, 8 * 10**9))
    found = report([plain, iq], GPU)
    share = advice_rules().speed.iq_types_in_ram
    first, second = (estimated_speed(one, found) or 0.0 for one in found.rows)
    assert second == pytest.approx(first * share)


def test_iq_types_on_gpus_before_turing_cost_speed() -> None:
    iq = WeightTypes({"IQ4_XS": 1.0}, 8 * 10**9, 8 * 10**9)
    for gpu, factor in (("Tesla P40", advice_rules().speed.iq_types_on_older_gpus), ("RTX 3060 12GB", 1.0)):
        devices = parse_devices([gpu])
        plain = read(row("Q4_K_M", 5.0, 4.9, devices), 2.0, 0.0)
        found = report([plain, replace(plain, weight_types=iq)], devices)
        first, second = (estimated_speed(one, found) or 0.0 for one in found.rows)
        assert second == pytest.approx(first * factor)


def test_a_good_quant_with_experts_in_ram_beats_a_poor_one_on_the_gpu() -> None:
    poor = read(row("IQ2_XXS", 9.0, 2.3, GPU), 1.5, 0.0)
    good = read(row("Q4_K_M", 20.0, 4.9, GPU, fits=False, partial=True, cpu_moe_layers=23), 1.9, 0.35)
    pick = advise("m", fit_candidates(report([poor, good], GPU, architecture="qwen35moe"), NOTHING)).pick
    assert pick is not None
    assert (pick.variant, pick.placement) == ("Q4_K_M", AdvisedPlacement.EXPERTS)


def test_nothing_goes_to_ram_for_less_than_an_adequate_divergence() -> None:
    whole = read(row("Q5_K_M", 9.0, 5.7, GPU), 9.0, 0.0)
    partly = read(row("Q6_K", 9.8, 6.6, GPU, fits=False, partial=True, gpu_layers=30), 9.0, 0.3)
    found = report([whole, partly], GPU, architecture="qwen35")
    advice = advise("m", fit_candidates(found, NOTHING))
    assert advice.pick is not None
    assert advice.better is not None
    assert advice.pick.variant == "Q5_K_M"
    assert (advice.better.variant, advice.better.placement) == ("Q6_K", AdvisedPlacement.LAYERS)


def test_a_smaller_cache_is_chosen_only_where_f16_has_nothing_adequate() -> None:
    small = read(row("Q3_K_M", 7.0, 3.9, GPU), 7.0, 0.0)
    large = read(row("Q4_K_M", 8.4, 4.9, GPU), 8.4, 0.0)
    f16 = report([small, replace(large, fits=False, headroom_bytes=-1)], GPU, architecture="qwen35")
    q8_0 = report([small, large], GPU, architecture="qwen35", kv_type="q8_0")
    pick = advise("m", [*fit_candidates(f16, NOTHING), *fit_candidates(q8_0, NOTHING)]).pick
    assert pick is not None
    assert (pick.variant, pick.kv_type) == ("Q4_K_M", "q8_0")
    both = advise(
        "m", [*fit_candidates(replace(f16, rows=(small, large)), NOTHING), *fit_candidates(q8_0, NOTHING)]
    ).pick
    assert both is not None
    assert (both.variant, both.kv_type) == ("Q4_K_M", "f16")


def test_a_measured_divergence_counts_only_for_the_cache_that_it_was_measured_with() -> None:
    two = [read(row(name, size, bits, GPU), size, 0.0) for name, size, bits in (("Q4_K_M", 5, 4.9), ("Q8_0", 8, 8.5))]

    def losses(kv_type: str, found: Measurements) -> dict[str, tuple[float, str]]:
        asked = report(two, GPU, architecture="qwen35", kv_type=kv_type)
        return {one.variant: (one.kld.value, one.kld.source) for one in fit_candidates(asked, found) if one.kld}

    plain = measured(Q4_K_M=0.02)
    both = replace(plain, other_caches={"q8_0": Losses({"Q4_K_M": MeasuredKld(0.03, 0.001, "BF16", "b")})})
    assert losses("f16", both) == losses("f16", plain)
    assert losses("f16", both)["Q4_K_M"] == (0.02, "measured")
    assert losses("q8_0", both)["Q4_K_M"] == (0.03, "measured")
    added = advice_rules().kv_types["q8_0"]
    assert losses("q8_0", plain)["Q4_K_M"] == (pytest.approx(0.02 + added), "prior")
    assert losses("q4_0", both) == {}  # nothing is known about this cache
    q4_0 = replace(plain, other_caches={"q4_0": both.other_caches["q8_0"]})
    assert losses("q4_0", q4_0) == {"Q4_K_M": (0.03, "measured")}


def test_the_advised_command_measures_with_the_cache_of_the_pick() -> None:
    found = report([read(row("Q4_K_M", 5.0, 4.9, GPU), 5.0, 0.0)], GPU, architecture="qwen35", kv_type="q8_0")
    advice = to_json(advise("m", fit_candidates(found, NOTHING)), "m", ())
    assert advice["settle"]["command"] == "sweep run m --variants '=Q4_K_M' --kv-type q8_0"
    assert advice["reason"].endswith("`sweep run --kv-type q8_0` measures it.")


def test_a_variant_that_does_not_fit_says_by_how_much() -> None:
    advice = advise("m", fit_candidates(three("6GiB"), NOTHING))
    reasons = {one.variant: one.reason for one in advice.excluded}
    assert reasons["BF16"].startswith("does not fit: it needs 396 GiB more")


def test_the_json_has_every_promised_field() -> None:
    found = ladder(("Q5_K_M", 5.5, 5.7), ("Q4_K_M", 4.9, 4.9), ("TQ1_0", 3.6, 2.1))
    answer = to_json(advise("m", fit_candidates(found, NOTHING)), "a model", ("--workspace", "a b"))
    assert answer["variant"] == "Q5_K_M"
    assert answer["kv_type"] == "f16"
    assert answer["ctx"] == 8192
    assert answer["placement"] == "gpu"
    assert answer["tokens_per_s"] == pytest.approx(936e9 * 0.6 / (5.5 * GIB))
    assert answer["confidence"] == "prior"
    assert answer["command"] == "llama-server -ngl 37 -c 8192"
    assert [one["variant"] for one in answer["alternatives"]] == ["Q4_K_M"]
    assert [one["variant"] for one in answer["excluded"]] == ["TQ1_0"]
    assert answer["expected_kld"]["source"] == "prior"
    assert answer["max_ctx"] == 16384
    # The model as it was typed, these variants alone, and the workspace that `sweep fit` reads.
    again = "sweep run 'a model' --variants '=Q5_K_M,Q4_K_M' --workspace 'a b'"
    assert answer["settle"] == {"items": None, "command": again}


def test_a_pick_that_is_partly_in_ram_says_how_long_its_context_can_be() -> None:
    changes = {"fits": False, "partial": True, "cpu_moe_layers": 23, "max_context_with_ram": 39424}
    experts = read(row("Q4_K_M", 20.0, 4.9, GPU, **changes), 1.9, 0.35)
    words = "With more of it in RAM, its context can be up to 39,424 tokens long."
    advice = advise("m", fit_candidates(report([experts], GPU, architecture="qwen35moe"), NOTHING))
    assert advice.reason.endswith(words)
    assert to_json(advice, "m", ())["max_ctx"] == 39424
    longest = report([experts], GPU, architecture="qwen35moe", context=39424)
    assert words not in advise("m", fit_candidates(longest, NOTHING)).reason
