"""Mixes that users write: files of rules, and single rules as llama-quantize's --tensor-type."""

from pathlib import Path

import pytest
from gguf import GGUFReader

from converters.errors import InputError
from converters.export import export
from converters.llamacpp.bindings import TYPES as KNOWN
from converters.mixes import MAX_REGEX, TYPES
from converters.plan import plan_export
from converters.recipes import QUANTS, recipe, with_own_types
from converters.resolver import open_source


def types_of(model: Path, quant: str) -> dict[str, str]:
    name = recipe(quant).name
    return {tensor.name: tensor.type.name for tensor in plan_export(open_source(model), [name])[name].tensors}


def mix(directory: Path, text: str, name: str = "mine.toml") -> str:
    (directory / name).write_text(text)
    return f"mix:{directory / name}"


def test_the_first_rule_that_matches_decides_and_llama_cpp_the_others(tiny: Path) -> None:
    plain = types_of(tiny, "Q8_0")
    own = types_of(tiny, r"q8_0;blk\.0\.attn_v=F16;attn_v=q4_0;^token_embd=Q5_0")
    assert own["blk.0.attn_v.weight"] == "F16"
    assert own["blk.1.attn_v.weight"] == "Q4_0"
    assert own["token_embd.weight"] == "Q5_0"
    changed = {name for name in plain if plain[name] != own[name]}
    assert changed == {name for name in plain if "attn_v.weight" in name} | {"token_embd.weight"}


def test_a_file_has_the_keys_of_the_xl_mixes(tiny: Path, tmp_path: Path) -> None:
    text = """
        base = "q8_0"
        rules = [
          { tensors = ["ffn_down"], layers = "edges", type = "BF16" },
          { tensors = ["attn_q", "attn_k"], models = "experts", type = "Q4_0" },
          { regex = "ffn_(up|gate)", type = "Q4_1" },
        ]
    """
    own, plain = types_of(tiny, mix(tmp_path, text)), types_of(tiny, "Q8_0")
    assert own["blk.0.ffn_down.weight"] == "BF16"
    assert own["blk.0.attn_q.weight"] == plain["blk.0.attn_q.weight"], "the model has no experts"
    assert own["blk.1.ffn_up.weight"] == own["blk.1.ffn_gate.weight"] == "Q4_1"


def test_the_file_says_which_rules_made_it(tiny: Path, tmp_path: Path) -> None:
    first = recipe(mix(tmp_path, 'base = "Q8_0"\nrules = [{ tensors = ["attn_v"], type = "F16" }]'))
    assert first.title == "mine"
    export(open_source(tiny), {first.name: tmp_path / "mine.gguf"}, threads=1)
    field = GGUFReader(tmp_path / "mine.gguf").fields["bitsweep.recipe"]
    assert bytes(field.parts[field.data[0]]).decode() == first.label
    assert first.label.startswith("mine.")
    second = recipe(mix(tmp_path, 'base = "Q8_0"\nrules = [{ tensors = ["attn_v"], type = "F32" }]'))
    assert second.name == first.name
    assert second.label != first.label, "another version of the file is another recipe"
    assert recipe("Q8_0;attn_v=F16").label != recipe("Q8_0;attn_v=F32").label


def test_a_type_that_needs_an_importance_matrix_needs_one_in_a_mix_too(tiny: Path) -> None:
    assert recipe("Q4_K_M;ffn_up=IQ2_XXS").needs_imatrix
    assert not recipe("Q4_K_M;ffn_up=Q2_K").needs_imatrix
    with pytest.raises(InputError, match=r"Q4_K_M;ffn_up=IQ2_XXS needs an importance matrix"):
        plan_export(open_source(tiny), ["Q4_K_M;ffn_up=IQ2_XXS"])


def test_llama_cpp_knows_all_types_of_rules() -> None:
    assert set(TYPES) <= set(KNOWN)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Q4_K_M;attn_v", "'attn_v': a rule for types is REGEX=TYPE"),
        ("Q4_K_M;attn_v=Q9", "'Q9' is not a type that tensors can have"),
        ("Q4_K_M;attn_v=I8", "'I8' is not a type that tensors can have"),
        ("Q4_K_M;attn_(v=Q8_0", r"'attn_\(v' is not a regular expression"),
        ("Q4_K_M;=Q8_0", "needs 1 to 500 characters"),
        (f"Q4_K_M;{'a' * (MAX_REGEX + 1)}=Q8_0", "needs 1 to 500 characters"),
        ("Q4_K_M;", "REGEX=TYPE"),
        ("Q4_K_XL;attn_v=Q8_0", "'Q4_K_XL' is not one of llama.cpp's own quants"),
        ("mix:missing.toml", "missing.toml: the mix cannot be read"),
    ],
)
def test_a_bad_rule_gives_one_line(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        recipe(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base = ", "not a TOML file"),
        ('base = "Q4_K_M"', "a list of rules"),
        ('base = "Q4_K_M"\nrules = []', "a list of rules"),
        ('base = "Q4_K_XL"\nrules = [{ regex = "a", type = "Q8_0" }]', "'Q4_K_XL' is not one of llama.cpp's own"),
        ('base = "Q4_K_M"\nbits = 4\nrules = [{ regex = "a", type = "Q8_0" }]', "unknown key 'bits'"),
        ('base = "Q4_K_M"\nrules = [7]', "7; a rule has type"),
        ('base = "Q4_K_M"\nrules = [{ regex = "a", typ = "Q8_0" }]', "unknown key 'typ'"),
        ('base = "Q4_K_M"\nrules = [{ type = "Q8_0" }]', "either tensors or regex"),
        ('base = "Q4_K_M"\nrules = [{ tensors = ["attn.v"], type = "Q8_0" }]', "expected a list of names"),
        ('base = "Q4_K_M"\nrules = [{ regex = "a", type = "Q8_0", layers = "edges" }]', "layers is 'edges'"),
        ('base = "Q4_K_M"\nrules = [{ regex = "a", type = "Q8_0", models = "moe" }]', "models is 'moe'"),
    ],
)
def test_a_bad_file_gives_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        recipe(mix(tmp_path, text))
    assert str(error.value).startswith(f"{tmp_path / 'mine.toml'}: ")
    assert "\n" not in str(error.value)


def test_names_of_quants_are_taken(tmp_path: Path) -> None:
    text = 'base = "Q8_0"\nrules = [{ tensors = ["attn_v"], type = "F16" }]'
    with pytest.raises(InputError, match="q4_k_m is the name of a quant"):
        recipe(mix(tmp_path, text, "q4_k_m.toml"))
    assert set(QUANTS) >= {"Q4_K_M"}


def test_rules_that_match_nothing_are_an_error(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--tensor-type: no tensor of this model has a name like 'atn_v', as blk\.0"):
        types_of(tiny, "Q8_0;attn_k=F16;atn_v=F16")
    some = '{ tensors = ["ffn_up_exps"], type = "F16" }, { tensors = ["attn_v"], type = "F16" }'
    assert types_of(tiny, mix(tmp_path, f'base = "Q8_0"\nrules = [{some}]'))["blk.0.attn_v.weight"] == "F16"
    with pytest.raises(InputError, match="no tensor of this model has a name like"):
        types_of(tiny, mix(tmp_path, 'base = "Q8_0"\nrules = [{ tensors = ["ffn_up_exps"], type = "F16" }]'))


def test_an_expression_that_only_python_knows_gives_one_line(tiny: Path) -> None:
    with pytest.raises(InputError, match=r"llama\.cpp cannot plan") as error:
        types_of(tiny, "Q8_0;(?<=attn)_v=F16")
    assert "\n" not in str(error.value)


def test_the_option_changes_only_plain_quants() -> None:
    assert with_own_types("Q4_K_M", ()) == "Q4_K_M"
    assert with_own_types("Q4_K_M", ("a=Q8_0", "b=F16")) == "Q4_K_M;a=Q8_0;b=F16"
    with pytest.raises(InputError, match="Q4_K_XL: --tensor-type changes only"):
        with_own_types("Q4_K_XL", ("a=Q8_0",))
    with pytest.raises(InputError, match="give the option once for each rule"):
        with_own_types("Q4_K_M", ("a=Q8_0;b=F16",))
