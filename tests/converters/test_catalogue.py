"""Names, shapes and bytes follow from a config alone: compared with tensors of real files and published sizes."""

import csv
import json
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
from checkpoints import make_checkpoint, make_tokenizer

from converters.catalogue import HEADER_BYTES_PER_TOKEN, estimated_vocabulary_bytes, public_model, sizes
from converters.config_source import ConfigSource
from converters.errors import InputError
from converters.export import export
from converters.llamacpp.container import ValueType, encode_header, uint32
from converters.llamacpp.reader import read_header
from converters.plan import Importance, plan_export
from converters.recipes import QUANTS
from converters.resolver import open_source
from converters.source import Source
from converters.tokenizer import read_tokenizer
from presets.catalogue import models

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
CONFIGS, TENSORS, QWEN2 = REFERENCE / "configs", REFERENCE / "gguf_tensors", REFERENCE / "tokenizers" / "qwen2"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference figures are not here")

# File of a model whose config is missing -> a config with the same text model, and its class if that differs.
SAME_SHAPE = {
    "Qwen3-4B-Instruct-2507": ("Qwen3-4B", None),
    "Qwen3-4B-Thinking-2507": ("Qwen3-4B", None),
    "Qwen3-VL-235B-A22B-Instruct": ("Qwen3-235B-A22B", "Qwen3VLMoeForConditionalGeneration"),
    "Qwen3-VL-235B-A22B-Thinking": ("Qwen3-235B-A22B", "Qwen3VLMoeForConditionalGeneration"),
}
REAL_FILES = (
    "Qwen3-4B-Instruct-2507", "Qwen3-4B-Thinking-2507", "Qwen3-VL-235B-A22B-Instruct", "Qwen3-VL-235B-A22B-Thinking",
    "Qwen3.5-0.8B", "Qwen3.5-2B", "Qwen3.5-4B", "Qwen3.5-9B", "Qwen3.5-27B", "Qwen3.5-35B-A3B", "Qwen3.5-122B-A10B",
    "Qwen3.5-397B-A17B", "Qwen3.6-27B", "Qwen3.6-35B-A3B", "Qwen3.8-27B",
)  # fmt: skip

# (model, MTP layers) -> quant -> bytes of the published file: Qwen's own of Qwen3 (Qwen/*-GGUF), and of Qwen3.5-0.8B
# lmstudio-community's without and ggml-org's with the MTP layer.
PUBLISHED = {
    ("Qwen3-0.6B", 0): {"Q8_0": 639_446_688},
    ("Qwen3-1.7B", 0): {"Q8_0": 1_834_426_016},
    ("Qwen3-4B", 0): {
        "Q4_K_M": 2_497_280_256, "Q5_0": 2_823_710_976, "Q5_K_M": 2_889_513_184, "Q6_K": 3_306_260_704,
        "Q8_0": 4_280_404_704,
    },
    ("Qwen3-8B", 0): {"Q4_K_M": 5_027_783_488},
    ("Qwen3.5-0.8B", 0): {"Q8_0": 811_843_040},
    ("Qwen3.5-0.8B", 1): {"Q8_0": 833_592_096},
}  # fmt: skip


def config_of(name: str) -> dict[str, Any]:
    return json.loads((CONFIGS / f"{name}.json").read_text())


def same(ours: Source, theirs: Source) -> None:
    assert ours.tensors == theirs.tensors
    assert dict(ours.metadata) == dict(theirs.metadata)
    assert list(ours.metadata) == list(theirs.metadata)


@needs_reference
@pytest.mark.parametrize("name", REAL_FILES)
def test_names_shapes_and_bytes_are_those_of_the_real_file(name: str) -> None:
    base, architecture = SAME_SHAPE.get(name, (name, None))
    config = config_of(base)
    if architecture is not None:
        config |= {"architectures": [architecture], "rope_scaling": {"mrope_section": [24, 20, 20]}}
    source = ConfigSource(config, CONFIGS / f"{base}.json", mtp=0)
    ours = {t.name: (tuple(reversed(t.shape)), t.type.name.lower(), t.nbytes) for t in source.tensors}
    with (TENSORS / f"{name}.bf16.csv").open() as file:
        theirs = {
            row["name"]: (
                tuple(int(size) for size in row["shape"].strip("()").split(",") if size.strip()),
                row["dtype"],
                int(row["bytes"]),
            )
            for row in csv.DictReader(file)
        }
    assert len(theirs) > 300
    assert ours == theirs


@needs_reference
def test_every_real_file_is_compared() -> None:
    assert {file.name.removesuffix(".bf16.csv") for file in TENSORS.glob("*.csv")} == set(REAL_FILES)


@needs_reference
def test_the_catalogue_has_every_supported_config_and_gives_the_same_plan() -> None:
    left_out = set()
    for file in sorted(CONFIGS.glob("*.json")):
        config = config_of(file.stem)
        entry = models().get(file.stem)
        if entry is None:
            left_out.add(file.stem)
            with pytest.raises(InputError, match=r"is not supported|is a speech model"):
                ConfigSource.open(file)
            continue
        assert entry.hub_id == f"Qwen/{file.stem}"
        assert entry.assembled == config.get("_assembled", False)
        same(ConfigSource(entry.config, file), ConfigSource.open(file))
        stated = {**config, **config.get("text_config", {})}.get("mtp_num_hidden_layers", 0)
        assert entry.mtp_layers == (1 if entry.name.startswith("Qwen3-Next") else stated)
    assert left_out == {"Qwen3.8-Flash-Next", "whisper-small", "whisper-tiny"}


@pytest.mark.parametrize(("model", "mtp"), PUBLISHED)
def test_a_published_file_has_the_predicted_tensor_bytes_and_about_the_predicted_header(model: str, mtp: int) -> None:
    published = PUBLISHED[model, mtp]
    for quant, size in sizes(public_model(model, mtp=mtp), list(published)).items():
        assert not size.header_exact
        # The estimate of a header of 6 or 11 MB is accurate to 2 kB. Only norms are smaller than that.
        assert size.file_bytes == pytest.approx(published[quant], abs=2000)
        assert (size.mtp_bytes > 0) == (mtp > 0)


def test_tensor_bytes_equal_those_of_published_files() -> None:
    """Compared with llama-gguf's output for Qwen's files of Qwen3-4B."""
    found = sizes(public_model("Qwen3-4B"), ["Q4_K_M", "Q8_0"])
    assert found["Q4_K_M"].tensor_bytes == 2_491_323_904
    assert found["Q8_0"].tensor_bytes == 4_274_448_384
    assert round(found["Q4_K_M"].bits_per_weight, 2) == 4.95


@needs_reference
def test_bytes_per_token_match_the_real_vocabulary() -> None:
    size = 151_936
    header = encode_header(read_tokenizer(QWEN2, {"vocab_size": size}).fields(), ())
    assert len(header) == pytest.approx(estimated_vocabulary_bytes(size), rel=1e-3)
    assert estimated_vocabulary_bytes(size // 2) == round(size // 2 * HEADER_BYTES_PER_TOKEN[size])


@pytest.mark.parametrize("name", models())
def test_every_model_of_the_catalogue_can_be_planned(name: str) -> None:
    found = sizes(public_model(name), ["Q2_K", "Q4_K_M", "BF16"])
    assert list(found) == ["Q2_K", "Q4_K_M", "BF16"]
    bits = [size.bits_per_weight for size in found.values()]
    assert bits == sorted(bits)
    assert 2.625 < bits[0] < bits[1]
    if models()[name].config["hidden_size"] % 256 == 0:  # otherwise most rows do not fit the blocks of a K-quant
        assert bits[0] < 4.5 < bits[1] < 6
    assert bits[2] == pytest.approx(16, abs=0.1)
    assert all((size.mtp_bytes > 0) == (models()[name].mtp_layers > 0) for size in found.values())


# Billions of parameters, as the models' cards state them.
STATED = {
    "Qwen2.5-0.5B-Instruct": 0.49, "Qwen2.5-1.5B-Instruct": 1.54, "Qwen2.5-3B-Instruct": 3.09,
    "Qwen2.5-7B-Instruct": 7.61, "Qwen2.5-14B-Instruct": 14.7, "Qwen2.5-32B-Instruct": 32.5,
    "Qwen2.5-72B-Instruct": 72.7, "QwQ-32B": 32.5, "Qwen2-57B-A14B-Instruct": 57.41,
}  # fmt: skip


@pytest.mark.parametrize("name", STATED)
def test_models_without_a_published_config_here_have_the_stated_number_of_parameters(name: str) -> None:
    elements = sum(tensor.elements for tensor in public_model(name).tensors)
    assert elements / 1e9 == pytest.approx(STATED[name], rel=0.01)
    assert models()[name].assembled


def test_the_largest_model_has_all_sizes_in_the_order_of_their_bits() -> None:
    quants = ["BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"]
    found = sizes(public_model("Qwen3.5-397B-A17B"), quants)
    assert list(found) == quants
    assert sorted(quants, key=lambda quant: -found[quant].file_bytes) == quants


def with_mtp(directory: Path) -> Path:
    return families.rewrite(directory, families.add_mtp)


@pytest.mark.parametrize(
    ("family", "tied"),
    [
        (family, tied)
        for tied in (False, True)
        for family in families.FAMILIES
        if not (tied and family in families.UNTIED)
    ],
)
def test_a_config_gives_the_same_tensors_as_its_checkpoint(tmp_path: Path, family: str, tied: bool) -> None:
    directory = families.make(family, tmp_path / "model", tie_word_embeddings=tied)
    make_tokenizer(directory)
    ours, theirs = ConfigSource.open(directory), open_source(directory)
    same(ours, theirs)
    assert ("output.weight" in {tensor.name for tensor in ours.tensors}) != tied
    planned, real = plan_export(ours, ["BF16", "Q4_K_M"]), plan_export(theirs, ["BF16", "Q4_K_M"])
    for quant, plan in planned.items():
        assert plan.tensors == real[quant].tensors
        assert plan.parts == real[quant].parts
    (directory / "tokenizer.json").unlink()
    for quant, plan in plan_export(ConfigSource.open(directory), ["BF16", "Q4_K_M"]).items():
        assert plan.tensors == real[quant].tensors, "the vocabulary's tokens matter to no type"


@pytest.mark.parametrize("family", ["qwen35", "qwen35moe", "qwen3next"])
def test_mtp_layers_are_counted_as_the_config_says(tmp_path: Path, family: str) -> None:
    directory = with_mtp(families.make(family, tmp_path / "model"))
    make_tokenizer(directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "mtp_num_hidden_layers": 1}))
    same(ConfigSource.open(directory), open_source(directory))
    same(ConfigSource.open(directory, mtp=0), open_source(directory, mtp=False))
    with_layer, without = (sizes(ConfigSource.open(directory, mtp=mtp), ["Q8_0"])["Q8_0"] for mtp in (None, 0))
    assert without.mtp_bytes == 0
    assert with_layer.mtp_bytes == with_layer.tensor_bytes - without.tensor_bytes > 0


def test_sizes_are_those_of_the_files_written(tiny: Path, tmp_path: Path) -> None:
    quants = ["BF16", "Q4_K_M"]
    found = sizes(ConfigSource.open(tiny), quants)
    assert found == sizes(open_source(tiny), quants)
    paths = {quant: tmp_path / f"{quant}.gguf" for quant in quants}
    export(open_source(tiny), paths, threads=1)
    for quant, path in paths.items():
        size, header = found[quant], read_header(path)
        assert size.header_exact
        assert (size.file_bytes, size.header_bytes) == (header.file_bytes, header.data_offset)
        assert size.tensor_bytes == header.tensor_bytes
    assert sizes(open_source(paths["BF16"]), quants) == found


def test_a_quant_that_needs_an_importance_matrix_has_the_size_of_a_file_made_with_one(tiny: Path) -> None:
    quants = ["IQ1_S", "IQ2_XS", "Q2_K_S", "IQ3_XXS", "Q4_K_M"]
    source, random = open_source(tiny), np.random.default_rng(0)
    shapes = {tensor.name: (1, tensor.shape[-1]) for tensor in source.tensors if len(tensor.shape) == 2}
    weights = {name: random.random(shape, np.float32) + 0.1 for name, shape in shapes.items()}
    given = Importance(weights, {"quantize.imatrix.entries_count": uint32(len(weights))})
    assumed, known = sizes(ConfigSource.open(tiny), quants), sizes(ConfigSource.open(tiny), quants, given)
    for quant, plan in plan_export(source, quants, given).items():
        assert assumed[quant].tensor_bytes == known[quant].tensor_bytes == plan.tensor_bytes
        assert (known[quant].file_bytes, known[quant].header_exact) == (plan.file_bytes, True)
        assert assumed[quant].header_exact == (quant == "Q4_K_M")


@pytest.mark.parametrize("name", ["Qwen3-14B", "Qwen3.6-35B-A3B"])
def test_every_quant_has_a_size(name: str) -> None:
    found = sizes(public_model(name), list(QUANTS))
    assert list(found) == list(QUANTS)
    for quant, size in found.items():
        assert size.bits_per_weight > 0.9 * QUANTS[quant].nominal_bits
    assert (
        found["IQ1_S"].file_bytes < found["IQ2_XS"].file_bytes < found["Q2_K"].file_bytes < found["Q2_K_XL"].file_bytes
    )


@pytest.mark.parametrize(("dtype", "type_"), [("float16", "F16"), ("float32", "F32"), (None, "BF16")])
def test_weights_have_the_dtype_of_the_config(dtype: str | None, type_: str) -> None:
    config = {**models()["Qwen3-0.6B"].config, "torch_dtype": dtype}
    types = {tensor.name: tensor.type.name for tensor in ConfigSource(config, Path("config.json")).tensors}
    assert types["token_embd.weight"] == types["blk.3.attn_q.weight"] == type_
    assert types["output_norm.weight"] == types["blk.3.attn_q_norm.weight"] == "F32"


def test_a_config_file_may_have_any_name_which_becomes_the_models_name(tmp_path: Path) -> None:
    config = json.dumps(dict(models()["Qwen3-8B"].config))
    (tmp_path / "Some-8B.json").write_text(config)
    (tmp_path / "Other-8B").mkdir()
    (tmp_path / "Other-8B" / "config.json").write_text(config)
    named = ConfigSource.open(tmp_path / "Some-8B.json")
    assert named.name == "Some-8B"
    assert ConfigSource.open(tmp_path / "Other-8B" / "config.json").name == "Other-8B"
    assert ConfigSource.open(tmp_path / "Other-8B").tensors == named.tensors
    assert named.metadata["qwen3.vocab_size"].type is ValueType.UINT32
    assert named.stored_name("blk.7.ffn_up.weight") == "model.layers.7.mlp.up_proj.weight"
    assert (
        named.fingerprint
        == ConfigSource.open(tmp_path / "Other-8B").fingerprint
        != public_model("Qwen3-4B").fingerprint
    )


def test_there_are_no_weights_to_read() -> None:
    with pytest.raises(InputError, match=r"Qwen/Qwen3-8B/config.json: is a config without weights; .*token_embd"):
        public_model("Qwen3-8B").read_rows("token_embd.weight", 0, 1)


def test_public_models_are_found_by_name_in_any_case_and_by_hub_id() -> None:
    assert public_model("qwen3-8b").name == public_model("Qwen/Qwen3-8B").name == "Qwen3-8B"
    with pytest.raises(InputError, match=r"Qwen3-7B: there is no such model; did you mean .*Qwen3-8B") as error:
        public_model("Qwen3-7B")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://hub.example/org/m-GGUF/tree/main", "org/m-GGUF"),
        ("https://hub.example/org/m-GGUF/blob/main/sub/m-Q4_0.gguf", "hub:org/m-GGUF/sub/m-Q4_0.gguf"),
    ],
)
def test_the_message_about_an_address_has_the_hub_id_in_it(address: str, name: str) -> None:
    with pytest.raises(InputError, match=f"is an address; give the hub id in it: {name}$"):
        public_model(address)


BAD_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "no Qwen": ({"architectures": ["LlamaForCausalLM"]}, "architecture 'LlamaForCausalLM' is not supported"),
    "no class": ({"architectures": None}, "the config names no architecture"),
    "no width": ({"hidden_size": None}, "hidden_size is missing"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    "no vocabulary": ({"vocab_size": "many"}, "vocab_size is 'many'"),
    "a dtype of its own": ({"dtype": "int3"}, "dtype is 'int3'; known: bfloat16, float16, float32"),
    "GPTQ": ({"quantization_config": {"quant_method": "gptq"}}, "quantized by gptq"),
    "a text_config that is a number": ({"text_config": 3}, "text_config is not a JSON object"),
    "uneven heads": ({"num_key_value_heads": 7}, "is not a multiple of num_key_value_heads 7"),
    "a negative count": ({"mtp_num_hidden_layers": -1}, "mtp_num_hidden_layers is -1"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_bad_config_is_rejected_in_one_line_that_names_it(tmp_path: Path, case: str) -> None:
    changes, reason = BAD_CONFIGS[case]
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**models()["Qwen3-8B"].config, **changes}))
    with pytest.raises(InputError) as error:
        ConfigSource.open(tmp_path)
    assert str(error.value).startswith(f"{file}: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_paths_without_a_config_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    for path, reason in (
        (tmp_path, "has no config.json"),
        (tmp_path / "absent.json", "no such file"),
        (tmp_path / "list.json", "does not hold a JSON object"),
    ):
        with pytest.raises(InputError, match=reason) as error:
            ConfigSource.open(path)
        assert str(error.value).startswith(str(path))


def test_mtp_layers_are_rejected_if_the_family_has_none(tmp_path: Path) -> None:
    config = {**models()["Qwen3-8B"].config, "mtp_num_hidden_layers": 1}
    plain = ConfigSource(models()["Qwen3-8B"].config, Path("config.json"))
    same(ConfigSource(config, Path("config.json")), plain)
    with pytest.raises(InputError, match="qwen3 model has no multi-token prediction layers"):
        ConfigSource(config, Path("config.json"), mtp=1)


def test_a_sharded_half_precision_checkpoint_and_its_config_give_the_same_plan(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "model", shard="1MB")
    same(ConfigSource.open(directory), open_source(directory))
