"""Several models next to each other: what can be compared, and which model and quant for how much memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from math import sqrt

import numpy as np
import pytest
from rich.console import Console

from converters.errors import InputError
from sweep.analysis.size_choice import Evidence, choose, frontier
from sweep.analysis.size_scaling import SizedModel, SizeScaling, size_scaling
from sweep.fit.hardware import parse_devices
from sweep.fit.memory_limit import MemoryLimit, memory_of_devices, memory_of_size
from sweep.record import Divergence, Memory, Perplexity, Record, Samples, TaskScore
from sweep.report.size_scaling import render_sizes
from sweep.report.size_scaling_html import render_sizes_page
from sweep.report.size_words import choice_sentences

GIB = 1 << 30
ITEMS, WINDOWS = 400, 64
QUANTS = {"Q2_K": (2.6, 0.08), "Q4_K_M": (4.9, 0.01), "Q8_0": (8.5, 0.0005), "BF16": (16.0, None)}
"""Bits per weight, and KL divergence from BF16."""


def answers(score: float, seed: int) -> np.ndarray:
    """Items of which this share is right, in an order of their own."""
    row = np.zeros(ITEMS)
    row[: round(score * ITEMS)] = 1.0
    return np.random.default_rng(seed).permutation(row)


def model(
    name: str,
    parameters: float,
    score: float,
    nats: float,
    *,
    tokens: str = "the tokens",
    items: str = "the items",
    tasks: Sequence[str] = ("t",),
    few: int | None = None,
    text: str = "words, windows of 512 tokens",
) -> SizedModel:
    """A model whose quants lose, in nats, their divergence, and half of it in score. `few`: only so many items."""
    windows = np.random.default_rng(1).normal(0, 0.3, WINDOWS)  # hard and easy windows are so for every model
    records = []
    for place, (variant, (bits, kld)) in enumerate(QUANTS.items()):
        size = int(parameters * bits / 8)
        right = answers(score - (kld or 0) / 2, seed=place + len(name))[:few]
        nll = nats + (kld or 0) + windows
        records.append(
            Record(
                variant,
                "gguf",
                "ok",
                file_bytes=size + 50_000,
                bits_per_weight=bits,
                memory=Memory(predicted_bytes=size + GIB // 2),
                perplexity=Perplexity(float(np.exp(nll.mean())), 0.1, 1000),
                divergence=None if kld is None else Divergence(kld, kld / 50, 1.0, 2.0, 0.9),
                tasks={task: TaskScore("acc", float(right.mean()), 0.02, len(right)) for task in tasks},
                reference="BF16",
                samples={"nll": Samples(tokens, nll), **{f"task {task}": Samples(items, right) for task in tasks}},
            )
        )
    return SizedModel(name, f"{name}-run", tuple(records), text, text)


@pytest.fixture
def sizes() -> SizeScaling:
    """Two models; the larger one is better by 20 points and 0.3 nats, whatever its quant."""
    return size_scaling([model("large", 8e9, 0.8, 1.0), model("small", 2e9, 0.6, 1.3)])


def test_models_are_ordered_by_their_number_of_weights_which_excludes_the_header(sizes: SizeScaling) -> None:
    assert [one.name for one in sizes.models] == ["small", "large"]
    assert [one.parameters for one in sizes.models] == [pytest.approx(2e9), pytest.approx(8e9)]


def test_the_larger_model_at_fewer_bits_is_chosen_over_the_smaller_at_more(sizes: SizeScaling) -> None:
    """In 3.5 GiB the large model fits only in Q2_K, which loses 4 points, and the small one even in Q8_0."""
    choice = choose(sizes, int(3.5 * GIB))
    assert choice.pick is not None
    assert choice.pick.name == "large in Q2_K"
    (against,) = choice.against
    assert against.other.name == "small in Q8_0"
    assert against.evidence is Evidence.TASKS
    assert not choice.is_open


def test_the_lead_is_the_paired_difference_over_the_same_items(sizes: SizeScaling) -> None:
    (against,) = choose(sizes, int(3.5 * GIB)).against
    taken = {
        one.name: record.samples["task t"].values
        for one, name in zip(sizes.models, ("Q8_0", "Q2_K"), strict=True)
        for record in one.records
        if record.variant == name
    }
    difference = taken["large"] - taken["small"]
    assert against.score is not None
    assert against.score.delta == pytest.approx(difference.mean())
    error = 1.96 * difference.std() / sqrt(ITEMS)
    assert against.score.low == pytest.approx(difference.mean() - error, abs=0.01)
    assert against.score.high == pytest.approx(difference.mean() + error, abs=0.01)


@pytest.mark.parametrize(("better_by", "evidence"), [(0.3, Evidence.PERPLEXITY), (0.0, Evidence.OPEN)])
def test_what_few_items_leave_open_perplexity_decides_or_it_is_said_to_be_open(
    better_by: float, evidence: Evidence
) -> None:
    large, small = model("large", 8e9, 0.6, 1.3 - better_by, few=12), model("small", 2e9, 0.6, 1.3, few=12)
    sizes = size_scaling([large, small])
    choice = choose(sizes, 24 * GIB)
    assert choice.pick is not None
    assert choice.against[0].evidence is evidence
    assert choice.is_open == (evidence is Evidence.OPEN)
    if evidence is Evidence.PERPLEXITY:
        assert choice.pick.model == "large"
    (_, said) = choice_sentences(sizes, choice, MemoryLimit(24 * GIB, "24 GiB"))
    assert said.startswith("Tasks leave open whether it is better than ")
    assert ("so does perplexity" in said) == choice.is_open


def test_the_smallest_quant_is_taken_whose_divergence_nobody_notices(sizes: SizeScaling) -> None:
    """Q8_0 diverges by 0.0005 nats, so BF16 is not chosen however much memory there is."""
    choice = choose(sizes, 100 * GIB)
    assert choice.pick is not None
    assert choice.pick.variant == "Q8_0"


def test_the_frontier_gives_the_choice_for_every_memory(sizes: SizeScaling) -> None:
    steps = frontier(sizes)
    assert [step.pick.name for step in steps if step.pick] == [
        "small in Q2_K", "small in Q4_K_M", "small in Q8_0", "large in Q2_K", "large in Q4_K_M", "large in Q8_0",
    ]  # fmt: skip
    for limit in np.linspace(0.5, 20, 40) * GIB:
        choice = choose(sizes, int(limit))
        below = [step for step in steps if step.limit_bytes <= limit]
        assert choice.pick == (below[-1].pick if below else None)


def test_nothing_is_chosen_if_nothing_fits_or_nothing_compares_the_models(sizes: SizeScaling) -> None:
    limit = MemoryLimit(1000, "1000 B")
    assert choose(sizes, 1000).pick is None
    assert choice_sentences(sizes, choose(sizes, 1000), limit) == ["For 1000 B: no variant of these models fits."]
    apart = size_scaling([model("a", 1e9, 0.5, 1.0, tokens="x", tasks=()), model("b", 2e9, 0.5, 1.0, tasks=())])
    assert frontier(apart) == []
    assert "nothing that was measured compares them" in choice_sentences(apart, choose(apart, GIB * 24), limit)[0]


def test_perplexities_of_different_tokenizers_or_texts_are_not_compared() -> None:
    one = model("one", 1e9, 0.5, 1.0)
    other = size_scaling([one, model("other", 2e9, 0.5, 1.0, tokens="other tokens")])
    assert other.texts is None
    assert other.scores is not None
    assert "their tokenizers differ" in other.notes[0]
    texts = size_scaling([one, model("other", 2e9, 0.5, 1.0, tokens="other tokens", text="another text")])
    assert "different texts or windows" in texts.notes[0]
    assert choose(other, 24 * GIB).pick is not None  # tasks compare them


def test_tokens_that_an_earlier_version_did_not_store_are_not_said_to_differ() -> None:
    """The reference's key stands in the place of their hash, for perplexity as for the divergence."""
    old = model("old", 2e9, 0.5, 1.0, tokens="the key of the reference")
    records = (
        replace(one, samples=one.samples | {"kld": Samples("the key of the reference", np.ones(WINDOWS))})
        for one in old.records
    )
    sizes = size_scaling([model("one", 1e9, 0.5, 1.0), replace(old, records=tuple(records))])
    assert sizes.texts is None
    assert "an earlier version of bitsweep measured old-run and did not store which" in sizes.notes[0]


def test_the_memory_of_variants_that_torch_runs_is_said_to_be_no_servers(sizes: SizeScaling) -> None:
    assert sizes.notes == ()
    small, large = sizes.models
    rounded = replace(small.records[1], variant="rtn:w4g128", kind="ptq", reference="torch:BF16")
    (note,) = size_scaling([replace(small, records=(*small.records, rounded)), large]).notes[-1:]
    assert note.startswith("The memory of rtn:w4g128 is what torch needs here")


def test_names_are_text_in_the_terminal_and_on_the_page() -> None:
    name = "<script>x</script>[red]"
    sizes = size_scaling([model(name, 1e9, 0.5, 1.0), model("b", 2e9, 0.9, 0.5)])
    steps, choice, limit = frontier(sizes), choose(sizes, GIB), MemoryLimit(GIB, "1.00 GiB")
    page = render_sizes_page(sizes, steps, choice, limit, {"runs": name})
    assert "<script>" not in page
    assert "&lt;script&gt;x&lt;/script&gt;[red]" in page
    console = Console(width=120, record=True, file=StringIO())
    console.print(render_sizes(sizes, steps, choice, limit, 120))
    assert f"{name} 1.0B" in console.export_text()


def test_the_plots_have_a_line_for_each_variant_and_for_each_model(sizes: SizeScaling) -> None:
    choice = choose(sizes, 24 * GIB)
    page = render_sizes_page(sizes, frontier(sizes), choice, MemoryLimit(24 * GIB, "24 GiB"), {})
    lines = {
        svg.partition('aria-label="')[2].partition('"')[0]: svg.count('class="pareto"')
        for svg in page.split("<svg ")[1:]
    }
    assert lines == {
        "Mean score against memory": 2,
        "Perplexity against memory": 2,
        "KL divergence": 3,  # BF16 has none
        "Perplexity": 4,
        "Mean score": 4,
    }
    assert page.count('class="ring"') == 2  # the choice, by score and by perplexity


def test_tasks_are_compared_only_over_the_same_items_and_if_all_models_answered_them() -> None:
    one = model("one", 1e9, 0.5, 1.0, tasks=("t", "u"))
    sizes = size_scaling([one, model("other", 2e9, 0.5, 1.0, items="others")])
    assert sizes.tasks == ()
    assert sizes.notes == (
        "t is not compared: the models answered different items or prompts.",
        "u is not compared: other did not answer it.",
    )
    assert sizes.texts is not None


def test_a_variant_that_failed_or_has_no_memory_figure_is_no_choice(sizes: SizeScaling) -> None:
    large = sizes.models[1]
    broken = replace(
        large,
        records=tuple(
            replace(one, status="failed", error="it broke", tasks={}) if one.variant == "Q8_0" else one
            for one in large.records
        ),
    )
    choice = choose(size_scaling([sizes.models[0], broken]), 10 * GIB)
    assert choice.pick is not None
    assert choice.pick.name == "large in Q4_K_M"


def test_models_of_one_name_have_the_names_of_their_runs() -> None:
    first, second = model("model", 1e9, 0.5, 1.0), replace(model("model", 2e9, 0.5, 1.0), run="other-run")
    assert [one.name for one in size_scaling([first, second]).models] == ["model-run", "other-run"]


def test_one_model_with_results_is_not_a_comparison() -> None:
    empty = SizedModel("empty", "empty-run", (Record("BF16", "gguf", "pending", reference="BF16"),))
    with pytest.raises(InputError, match=r"empty-run: two models with results are needed .* there is one"):
        size_scaling([model("one", 1e9, 0.5, 1.0), empty])
    three = size_scaling([model("one", 1e9, 0.5, 1.0), model("two", 2e9, 0.5, 1.0), empty])
    assert "empty is left out: it has no results yet." in three.notes


def test_the_memory_of_a_gpu_is_what_fit_leaves_for_a_model() -> None:
    assert memory_of_size("24GB").limit_bytes == memory_of_size("24GiB").limit_bytes == 24 * GIB
    (device,) = parse_devices(["RTX 4090"])
    limit = memory_of_devices([device])
    assert limit.limit_bytes == device.usable_bytes - device.reserve_bytes
    assert limit.words.startswith("RTX 4090 (")
    both = memory_of_devices(parse_devices(["2xRTX 4090", "64GiB RAM"]))
    assert both.limit_bytes == 2 * limit.limit_bytes
    with pytest.raises(InputError, match="--memory '24' is not a size"):
        memory_of_size("24")
