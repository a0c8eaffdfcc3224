"""The ranking of an ablation against closed forms; its table and page are well-formed, harmless and complete."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import pairwise

import pytest
from rich.console import Console
from test_report_html import Page

import presets
from int8.design_space import load
from int8.recipe import ALL_FOLDS, NAMED, Activations, Fold, Insertion, Recipe, Scales
from sweep.analysis.ablation import Ablation, RecipeFailure, RecipeMeasurement, least, ranked
from sweep.analysis.setup_words import name_of, settings_of
from sweep.record import Perplexity
from sweep.report import heatmap
from sweep.report.ablation import render_ablation
from sweep.report.ablation_html import render_page

FLOAT = (1.0, 1.2, 0.9, 1.1, 1.3, 0.8, 1.0, 1.4)
NOISE = (0.01, -0.01, 0.02, -0.02, 0.005, -0.005, 0.003, -0.003)  # with mean zero
SPACE = load(presets.DESIGN_SPACE)


def measured(*losses: float) -> RecipeMeasurement:
    """A recipe with this loss in each window."""
    nll = tuple(one + loss for one, loss in zip(FLOAT, losses, strict=True))
    kld = tuple(abs(loss) + 1e-4 for loss in losses)
    return RecipeMeasurement(Perplexity(2.7, 0.1, 600), nll, kld, sum(kld) / len(kld), 1e-5, 0.99)


def ablation(model: str = "micro") -> Ablation:
    found = {recipe: measured(*(0.001 * i + noise for noise in NOISE)) for i, recipe in enumerate(SPACE.points[1:])}
    failed = (RecipeFailure(SPACE.points[0], "failed", "cuda has no <memory>"),)
    return Ablation(model, SPACE, Perplexity(2.7, 0.1, 600), ranked(found, FLOAT), failed, {"model": model})


def test_losses_are_paired_by_window() -> None:
    """The same noise in two recipes cancels in their difference; a loss below the noise is not significant."""
    none, little, much = (Recipe("", alpha=alpha) for alpha in (0.1, 0.2, 0.3))
    points = ranked(
        {
            much: measured(*(0.5 + noise for noise in NOISE)),
            none: measured(*NOISE),
            little: measured(*(0.004 + noise for noise in NOISE)),
        },
        FLOAT,
    )
    assert [point.recipe for point in points] == [none, little, much]
    assert [point.loss.delta for point in points] == pytest.approx([0.0, 0.004, 0.5])
    variance = sum(noise**2 for noise in NOISE) / 8
    assert [point.loss.stderr for point in points] == pytest.approx([(variance / 8) ** 0.5] * 3)
    assert [point.differs for point in points] == [False, False, True]
    assert points[0].is_best
    assert points[0].behind is None
    behind = points[1].behind
    assert behind is not None
    assert behind.delta == pytest.approx(0.004)
    assert behind.stderr == pytest.approx(0.0, abs=1e-12)  # every window is behind by the same amount
    assert [point.is_as_good for point in points] == [True, False, False]
    assert [point.to_json()["ln_ratio"]["real"] for point in points] == [False, False, True]
    assert [point.to_json()["behind_best"]["real"] for point in points[1:]] == [True, True]


def test_an_ablation_as_json_has_every_figure() -> None:
    found = ablation()
    out = found.to_json()
    assert list(out) == ["model", "title", "reference", "points", "failed", "grids", "about"]
    assert (out["model"], out["title"], out["about"]) == ("micro", SPACE.title, {"model": "micro"})
    assert out["reference"] == asdict(found.reference)
    assert out["failed"] == [{"recipe": SPACE.points[0].to_json(), "status": "failed", "error": "cuda has no <memory>"}]
    assert [found.of(point.recipe) for point in found.points] == list(found.points)
    assert found.of(SPACE.points[0]) is None
    for point, one in zip(found.points, out["points"], strict=True):
        assert one["recipe"] == {key: value for key, value in point.recipe.to_json().items() if key != "name"}
        assert one["perplexity"] == asdict(point.measured.perplexity)
        assert one["ln_ratio"] == asdict(point.loss) | {"p_holm": point.loss_holm, "real": point.differs}
        assert one["divergence"] == {
            "kld_mean": point.measured.kld_mean,
            "kld_stderr": 1e-5,
            "top1_agreement": 0.99,
            "like_the_least": point.least_kld,
        }
    assert out["points"][0]["behind_best"] is None
    last = found.points[-1]
    assert last.behind is not None
    assert out["points"][-1]["behind_best"] == asdict(last.behind) | {"p_holm": last.behind_holm, "real": False}
    assert [one["divergence"]["like_the_least"] for one in (out["points"][0], out["points"][-1])] == [True, False]
    for grid, one in zip(SPACE.grids, out["grids"], strict=True):
        assert (one["title"], one["base"]) == (grid.title, grid.base)
        assert one["rows"] == {"axis": grid.rows.name, "values": grid.rows.labels}
        assert one["columns"] == {"axis": grid.columns.name, "values": grid.columns.labels}
        for recipes, numbers in zip(grid.recipes, one["points"], strict=True):
            for recipe, number in zip(recipes, numbers, strict=True):
                assert (number is None) == (recipe == SPACE.points[0])
                assert number is None or found.points[number].recipe == recipe


def test_least_finds_the_lowest_mean_and_those_indistinguishable_from_it() -> None:
    a, b, c = (Recipe("", alpha=alpha) for alpha in (0.1, 0.2, 0.3))
    rows = {a: FLOAT, b: tuple(one + noise for one, noise in zip(FLOAT, NOISE, strict=True)), c: (9.0,) * 8}
    best, indistinguishable = least(rows)
    assert {best, *indistinguishable} == {a, b}


def test_the_settings_in_words_identify_a_recipe() -> None:
    assert len({name_of(recipe) for recipe in SPACE.points}) == len(SPACE.points)
    assert settings_of(replace(NAMED["sq-ph"], folds=()))["alpha"] == ""
    assert settings_of(NAMED["sq"])["folds"] == "all"
    assert settings_of(replace(NAMED["sq"], folds=NAMED["sq"].folds[:2]))["folds"] == "norms"
    assert settings_of(replace(NAMED["sq"], keep=("lm_head", "*.down_proj")))["keep"] == "lm_head, *.down_proj"
    plain = Recipe("", folds=(Fold.NORM_QKV, Fold.V_O), alpha=0.25, symmetric=True)
    assert settings_of(plain) == {
        "alpha": "0.25",
        "inputs": "static, symmetric",
        "folds": "norm->qkv, v->o",
        "Q/K": "float",
        "V": "float",
        "Q/K at": "",
        "attention_symmetric": "",
        "percentile": "",
        "keep": "",
        "int8_kv_cache": "",
    }
    assert settings_of(replace(plain, folds=ALL_FOLDS[1:]))["folds"] == f"without {ALL_FOLDS[0]}"
    other = Recipe(
        "", activations=Activations.DYNAMIC, query_key=Scales.HEAD, insertion=Insertion.ROPE, percentile=99.5
    )
    assert name_of(other) == "inputs per token, folds none, Q/K head, V float, Q/K at RoPE, percentile 99.5"


def test_the_terminal_table_has_every_recipe_in_order() -> None:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_ablation(ablation(), 140))
    shown = console.export_text()
    losses = [f"+{0.001 * i:.4f}" for i in range(1, len(SPACE.points) - 1)]
    places = [shown.index(loss) for loss in losses]
    assert places == sorted(places)
    assert "indistinguishable" in shown
    assert "cuda has no <memory>" in shown


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    source = render_page(ablation("<script>alert(1)</script>"))
    parsed = Page(source)
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    attributes = {name for _, attrs in parsed.tags for name in attrs}
    assert not {name for name in attributes if name.startswith("on") or name in ("src", "href", "style", "xlink:href")}
    assert "url(" not in source
    cells = [attrs for tag, attrs in parsed.tags if tag == "text" and (attrs["class"] or "").startswith("value")]
    in_grids = sum(len(row) for grid in SPACE.grids for row in grid.recipes)
    lost = sum(recipe == SPACE.points[0] for grid in SPACE.grids for row in grid.recipes for recipe in row)
    assert len(cells) == 2 * (in_grids - lost)
    assert "cuda has no <memory>" in parsed.text
    frames = [attrs for tag, attrs in parsed.tags if attrs.get("class") == "frame"]
    assert len(frames) >= 2 * len(SPACE.grids)  # at least one in each map: equal recipes share it


def test_colour_strength_is_linear_in_the_logarithm_and_clamped_to_the_scale() -> None:
    shades = heatmap.Shades.of([0.0002, 0.5, -3.0])
    assert (shades.first, shades.last) == (-4, 0)
    strengths = [shades.strength(10.0**power) for power in (-4, -3, -2, -1, 0)]
    steps = [after - before for before, after in pairwise(strengths)]
    assert steps == pytest.approx([steps[0]] * 4)
    assert strengths[-1] == 1
    assert shades.strength(-1.0) == shades.strength(0.0) == strengths[0] < 0.1
    assert shades.strength(100.0) == 1
    assert heatmap.Shades.of([0.002, 0.003]).strength(0.003) < 0.5  # similar values have similar colours


def test_an_ablation_without_results_says_so() -> None:
    failure = RecipeFailure(NAMED["sq"], "cancelled", "no")
    nothing = Ablation("m", SPACE, Perplexity(2.7, 0.1, 600), ranked({}, FLOAT), (failure,), {})
    assert "No recipe could be measured" in Page(render_page(nothing)).text
