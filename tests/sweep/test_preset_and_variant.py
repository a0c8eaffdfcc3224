"""Names of presets and variants, right and wrong ones."""

from pathlib import Path

import pytest

import presets
from converters.errors import InputError
from ptq.recipe import Rounding
from sweep.methods.gguf import Quant
from sweep.methods.ptq import Ptq
from sweep.methods.registry import parse, parse_list
from sweep.planning import preset
from sweep.planning.model import ResolvedModel
from sweep.planning.prepare import _preset_window


def test_the_main_preset_goes_from_two_to_eight_bits() -> None:
    loaded = preset.load("q2-q8")
    assert loaded.reference == "BF16"
    assert loaded.variants == ("BF16", "Q2_K", "Q2_K_XL", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")


def test_a_preset_can_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('reference = "F16"\nvariants = ["F16", "Q4_0"]\nlimit = 5\n')
    loaded = preset.load(str(file))
    assert (loaded.name, loaded.reference, loaded.limit, loaded.title) == ("mine", "F16", 5, "mine")


def test_every_variant_of_the_built_in_presets_is_known_by_its_plain_name() -> None:
    for name in presets.sweeps():
        variants = preset.load(name).variants
        assert [variant.name for variant in parse_list(variants)] == list(variants)


def test_the_presets_for_post_training_quantization_have_plain_rounding_for_every_grid() -> None:
    """The other methods are judged by plain rounding at the same bits, so it has to be in the run."""
    for name in ("ptq-study", "gguf-and-ptq"):
        variants = parse_list(preset.load(name).variants)
        recipes = [variant.recipe for variant in variants if isinstance(variant, Ptq)]
        plain = {(r.grid, r.activation_bits) for r in recipes if r.name.startswith("rtn:")}
        assert {(r.grid, r.activation_bits) for r in recipes if r.rounding is not Rounding.BILLM} == plain


def test_the_study_measures_long_windows_if_the_model_has_the_context(tmp_path: Path) -> None:
    loaded = preset.load("ptq-study")
    assert loaded.window == 2048
    copied = tmp_path / "ptq-study.toml"
    copied.write_text(preset.as_toml(loaded))
    assert preset.load(str(copied)) == loaded
    said: list[str] = []
    long, short = (ResolvedModel("m", tmp_path, "f", context) for context in (2048, 2047))
    assert (_preset_window(loaded, long, said.append), said) == (2048, [])
    assert _preset_window(loaded, short, said.append) is None
    assert said == [
        "preset ptq-study: its window of 2048 tokens is more than the 2047 tokens that m was trained for; the window "
        "has 512 tokens"
    ]
    assert _preset_window(preset.load("q2-q8"), short, said.append) is None
    assert len(said) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('reference = "BF16"\nvariants = ["BF16"]\nvariant = []\n', "unknown key 'variant'; did you mean 'variants'?"),
        ('variants = ["BF16"]\n', "'reference' is missing"),
        ('reference = "BF16"\nvariants = "BF16"\n', "'variants' must be of type list"),
        ('reference = "BF16"\nvariants = [1]\n', "every item of 'variants' must be a string"),
        ('reference = "BF16"\nvariants = ["BF16"]\nlimit = 0\n', "'limit' must be at least 1"),
        ('reference = "BF16"\nvariants = ["BF16"]\nlimit = true\n', "'limit' must be of type int"),
        ("reference = \n", "not valid TOML"),
    ],
)
def test_the_error_for_a_bad_preset_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(InputError) as refusal:
        preset.load(str(file))
    assert message in str(refusal.value)
    assert str(file) in str(refusal.value)


def test_the_error_for_an_unknown_preset_suggests_a_similar_one() -> None:
    with pytest.raises(InputError, match="did you mean q2-q8"):
        preset.load("q2q8")


def test_quant_names_are_case_insensitive() -> None:
    assert parse("q4_k_m") == Quant("Q4_K_M", "Q4_K_M")


def test_a_gguf_file_is_a_variant(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "x.gguf").touch()
    first, second = (f"gguf:{tmp_path / place / 'x.gguf'}" for place in ("a", "b"))
    names = [entry.name for entry in parse_list(["Q8_0", first, first, second])]
    assert names == ["Q8_0", "gguf:x.gguf", second]


@pytest.mark.parametrize(
    ("text", "message"),
    [("Q4_K_X", "Q4_K_"), ("int7:x", "no variant has the prefix 'int7:'"), ("gguf:/no/such", "there is no such file")],
)
def test_an_unknown_variant_is_rejected(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)
