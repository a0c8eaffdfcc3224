"""Exported files equal those of llama.cpp's quantizer, are complete or absent, and have the planned size."""

import contextlib
import ctypes
import errno
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import families
import numpy as np
import pytest
import safetensors.torch
import torch
from checkpoints import make_checkpoint, make_tokenizer
from gguf import GGUFReader

from converters.errors import InputError
from converters.export import ExportProgress, export
from converters.llamacpp.bindings import TYPES, lib
from converters.llamacpp.tensor_types import plan_types
from converters.plan import IMATRIX_TYPES, Importance, plan_export, type_overrides
from converters.recipes import QUANTS
from converters.resolver import open_source
from converters.source import Source

ALL = [name for name, recipe in QUANTS.items() if not recipe.needs_imatrix and recipe.mix is None]


def quantize_by_llama_cpp(
    source: Path,
    target: Path,
    quant: str,
    importance: Importance | None = None,
    overrides: Sequence[tuple[str, str]] = (),
) -> None:
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = QUANTS[quant].ftype, 2
    given = {} if importance is None else importance.weights
    entries = (lib.llama_model_imatrix_data * (len(given) + 1))()
    for entry, (name, weights) in zip(entries, given.items(), strict=False):
        entry.name, entry.size = name.encode(), weights.size
        entry.data = weights.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    patterns = (lib.llama_model_tensor_override * (len(overrides) + 1))(
        *((pattern.encode(), TYPES[name].id) for pattern, name in overrides)
    )
    if importance is not None:
        params.imatrix = entries
    if overrides:
        params.tt_overrides = patterns
    assert lib.llama_model_quantize(str(source).encode(), str(target).encode(), params) == 0


def random_importance(source: Source, seed: int = 0) -> Importance:
    """Random importance for every tensor in a block that consists of matrices."""
    rng = np.random.default_rng(seed)
    weights = {
        tensor.name: rng.uniform(0.01, 10, (math.prod(tensor.shape[:-2]), tensor.shape[-1])).astype(np.float32)
        for tensor in source.tensors
        if len(tensor.shape) >= 2 and tensor.name.startswith("blk.")
    }
    return Importance(weights, {})


@pytest.fixture(scope="module")
def exported(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("exported")
    targets = {quant: directory / f"tiny-{quant}.gguf" for quant in ALL}
    export(open_source(tiny), targets, threads=2)
    return targets


@pytest.mark.parametrize("quant", ALL)
def test_files_equal_those_of_llama_cpps_quantizer_to_the_byte(
    exported: dict[str, Path], tmp_path: Path, quant: str
) -> None:
    quantize_by_llama_cpp(exported["BF16"], tmp_path / "theirs.gguf", quant)
    assert exported[quant].read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


FEW = ("BF16", "Q2_K", "Q4_K_M", "IQ4_XS")  # without IQ1 to IQ3, whose quantization is slow


@pytest.fixture(
    scope="module",
    params=[
        ("dense", FEW),
        pytest.param(("dense", tuple(QUANTS)), marks=pytest.mark.slow),
        pytest.param(("experts and DeltaNet, MTP", tuple(QUANTS)), marks=pytest.mark.slow),
    ],
    ids=lambda param: f"{param[0]}, {len(param[1])} quants",
)
def weighed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, dict[str, Path]]:
    """A model exported with an importance matrix."""
    family, quants = request.param
    directory = tmp_path_factory.mktemp("weighed")
    if family == "dense":
        make_checkpoint(directory / "model", num_hidden_layers=9, intermediate_size=256)
    else:
        sizes = {"hidden_size": 256, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256}
        sizes["num_experts"] = 3  # few, because quantization takes most of the time
        families.make("qwen35moe", directory / "model", dtype=torch.bfloat16, **sizes)
        families.rewrite(directory / "model", families.add_mtp)
        make_tokenizer(directory / "model")
    source = open_source(directory / "model")
    targets = {quant: directory / f"{quant}.gguf" for quant in quants}
    export(source, targets, threads=2, importance=random_importance(source))
    return source, targets


def tensors(file: Path) -> dict[str, tuple[str, bytes]]:
    return {tensor.name: (tensor.tensor_type.name, tensor.data.tobytes()) for tensor in GGUFReader(file).tensors}


def test_files_with_an_importance_matrix_equal_those_of_llama_cpps_quantizer(
    weighed: tuple[Source, dict[str, Path]], tmp_path: Path
) -> None:
    source, files = weighed
    for quant, file in files.items():
        overrides = type_overrides(source, QUANTS[quant])
        quantize_by_llama_cpp(files["BF16"], tmp_path / "theirs.gguf", quant, random_importance(source), overrides)
        assert tensors(file) == tensors(tmp_path / "theirs.gguf"), quant


def test_quants_that_need_an_importance_matrix_are_rejected_without_one(tiny: Path) -> None:
    source = open_source(tiny)
    for quant, recipe in QUANTS.items():
        types = {tensor.type.name for tensor in plan_types(source.metadata, source.tensors, recipe.ftype)}
        assert recipe.needs_imatrix == (bool(types & set(IMATRIX_TYPES)) or quant == "Q2_K_S"), quant
        if recipe.needs_imatrix:
            with pytest.raises(InputError, match=f"{quant} needs an importance matrix"):
                plan_export(source, [quant])


def test_an_importance_matrix_of_another_model_is_rejected(tiny: Path) -> None:
    source = open_source(tiny)
    weights = dict(random_importance(source).weights)
    with pytest.raises(InputError, match="the importance matrix: names no tensor of"):
        plan_export(source, ["Q4_K_M"], Importance({"blk.99.ffn_up.weight": np.ones((1, 256), np.float32)}, {}))
    with pytest.raises(InputError, match=r"\(1, 128\) values for blk.0.attn_q.weight, which has \(1, 256\)"):
        plan_export(
            source, ["Q4_K_M"], Importance({**weights, "blk.0.attn_q.weight": np.ones((1, 128), np.float32)}, {})
        )
    del weights["blk.1.ffn_up.weight"]
    with pytest.raises(InputError, match=r"IQ2_XS stores blk.1.ffn_up.weight as IQ2_XS, .* has none for it"):
        plan_export(source, ["IQ2_XS"], Importance(weights, {}))


@pytest.mark.parametrize(
    "settings",
    [
        {
            "hidden_size": 96,
            "intermediate_size": 160,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 32,
        },
        {"tie_word_embeddings": False, "num_hidden_layers": 9, "hidden_size": 128, "intermediate_size": 256},
    ],
    ids=["rows that fit no K-quant's block", "untied, layers enough for every mixture"],
)
def test_fallback_types_and_mixtures_equal_those_of_llama_cpp(
    checkpoint: Callable[..., Path], tmp_path: Path, settings: dict[str, object]
) -> None:
    quants = ["BF16", "Q2_K", "Q3_K_M", "Q4_K_M", "Q6_K", "Q8_0", "IQ4_XS"]
    targets = {quant: tmp_path / f"{quant}.gguf" for quant in quants}
    export(open_source(checkpoint(**settings)), targets)
    for quant in quants:
        quantize_by_llama_cpp(targets["BF16"], tmp_path / "theirs.gguf", quant)
        assert targets[quant].read_bytes() == (tmp_path / "theirs.gguf").read_bytes(), quant


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_other_dtypes_are_quantized_from_their_own_values(
    checkpoint: Callable[..., Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    own = {torch.float32: "F32", torch.float16: "F16"}[dtype]
    targets = {quant: tmp_path / f"{quant}.gguf" for quant in (own, "BF16", "Q4_K_M")}
    export(open_source(checkpoint(dtype=dtype, num_hidden_layers=1)), targets)
    for quant in ("BF16", "Q4_K_M"):
        quantize_by_llama_cpp(targets[own], tmp_path / "theirs.gguf", quant)
        assert targets[quant].read_bytes() == (tmp_path / "theirs.gguf").read_bytes(), quant


def test_weights_in_the_file_are_those_of_the_checkpoint(tiny: Path, exported: dict[str, Path]) -> None:
    theirs = safetensors.torch.load_file(tiny / "model.safetensors")
    ours = {tensor.name: tensor for tensor in GGUFReader(exported["F32"]).tensors}
    pairs = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    for layer in range(2):
        for hf, own in {
            "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
            "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
            "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
            "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        }.items():  # fmt: skip
            pairs[f"model.layers.{layer}.{hf}.weight"] = f"blk.{layer}.{own}.weight"
    assert set(pairs) == set(theirs)
    assert set(pairs.values()) == set(ours)
    for hf, own in pairs.items():
        assert np.array_equal(ours[own].data, theirs[hf].float().numpy()), own


def test_planned_sizes_are_exact_and_bits_count_only_tensor_data(tiny: Path, exported: dict[str, Path]) -> None:
    for quant, plan in plan_export(open_source(tiny), ALL).items():
        reader = GGUFReader(exported[quant])
        assert plan.file_bytes == exported[quant].stat().st_size
        assert plan.tensor_bytes == sum(tensor.n_bytes for tensor in reader.tensors)
        assert plan.bits_per_weight == pytest.approx(
            8 * sum(int(t.n_bytes) for t in reader.tensors) / sum(int(t.n_elements) for t in reader.tensors)
        )
        assert {t.name: t.type.name for t in plan.tensors} == {t.name: t.tensor_type.name for t in reader.tensors}
        census: dict[str, int] = {}
        for tensor in reader.tensors:
            census[tensor.tensor_type.name] = census.get(tensor.tensor_type.name, 0) + 1
        assert {name: count.tensors for name, count in plan.census.items()} == census
        assert sum(count.bytes for count in plan.census.values()) == plan.tensor_bytes


def test_nominal_bits_are_those_of_the_main_type() -> None:
    named_otherwise = {"IQ3_M": "IQ3_S", "IQ3_XS": "IQ3_S", "IQ2_M": "IQ2_S", "IQ2_S": "IQ2_XS", "MXFP4_MOE": "MXFP4"}
    for quant, recipe in QUANTS.items():
        name = quant.removesuffix("_XL") if recipe.mix is None else {"Q8_K_XL": "Q8_0"}.get(quant, quant[:4])
        kind = TYPES[named_otherwise.get(name) or (name if name in TYPES else name.rpartition("_")[0])]
        assert recipe.nominal_bits == 8 * kind.block_bytes / kind.block_elements, quant


def test_only_f32_f16_and_bf16_keep_all_weights_as_floats() -> None:
    assert {name for name, recipe in QUANTS.items() if recipe.is_float} == {"F32", "F16", "BF16"}


def test_a_gguf_file_gives_the_same_quants_as_its_checkpoint(exported: dict[str, Path], tmp_path: Path) -> None:
    export(open_source(exported["BF16"]), {"Q3_K_M": tmp_path / "again.gguf", "BF16": tmp_path / "copy.gguf"})
    assert (tmp_path / "again.gguf").read_bytes() == exported["Q3_K_M"].read_bytes()
    assert (tmp_path / "copy.gguf").read_bytes() == exported["BF16"].read_bytes()


def test_one_file_alone_and_another_number_of_threads_give_the_same_bytes(
    tiny: Path, exported: dict[str, Path], tmp_path: Path
) -> None:
    export(open_source(tiny), {"Q4_K_M": tmp_path / "one.gguf"}, threads=1)
    assert (tmp_path / "one.gguf").read_bytes() == exported["Q4_K_M"].read_bytes()


def test_shards_give_the_same_file(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    whole, parts = checkpoint(), checkpoint(shard="400KB")
    assert len(list(parts.glob("*.safetensors"))) > 2
    one, other = open_source(whole, name="m"), open_source(parts, name="m")
    export(one, {"Q4_K_M": tmp_path / "one.gguf"})
    export(other, {"Q4_K_M": tmp_path / "other.gguf"})
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "other.gguf").read_bytes()
    assert one.fingerprint == other.fingerprint


def test_progress_ends_at_the_total(tiny: Path, tmp_path: Path) -> None:
    seen: list[ExportProgress] = []
    plans = export(open_source(tiny), {q: tmp_path / q for q in ("Q8_0", "Q2_K")}, progress=seen.append)
    assert seen[-1].done_bytes == seen[-1].total_bytes == sum(plan.tensor_bytes for plan in plans.values())
    assert [p.done_bytes for p in seen] == sorted(p.done_bytes for p in seen)


def test_an_existing_file_stays_until_the_new_one_is_complete(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    target.write_bytes(b"old")

    def look(progress: ExportProgress) -> None:
        assert target.read_bytes() == b"old"

    export(open_source(tiny), {"Q8_0": target}, progress=look)
    assert target.read_bytes()[:4] == b"GGUF"
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_rejected_by_name(
    altered: Callable[..., Path], tmp_path: Path, value: float
) -> None:
    directory = altered()
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][300, 7] = value
    safetensors.torch.save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.up_proj\.weight.*row 300, column 7"):
        export(open_source(directory), {"BF16": out / "a.gguf", "Q4_K_M": out / "b.gguf"})
    assert list(out.iterdir()) == []


def test_values_too_large_for_a_type_are_rejected(altered: Callable[..., Path], tmp_path: Path) -> None:
    directory = altered()
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6  # fits bfloat16, but not float16
    safetensors.torch.save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"model\.layers\.0\.mlp\.up_proj\.weight.*F16"):
        export(open_source(directory), {"F16": tmp_path / "a.gguf"})
    assert not (tmp_path / "a.gguf").exists()


def test_quantizing_a_quantized_file_is_rejected(exported: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"already quantized \(.* is Q6_K\)"):
        open_source(exported["Q4_K_M"])


def test_the_source_is_never_overwritten(exported: dict[str, Path]) -> None:
    before = exported["BF16"].read_bytes()
    with pytest.raises(InputError, match="is the source itself"):
        export(open_source(exported["BF16"]), {"Q8_0": exported["BF16"]})
    assert exported["BF16"].read_bytes() == before


@pytest.mark.parametrize(("name", "near"), [("Q4_K_X", "Q4_K_M"), ("q4km", "Q4_K_M"), ("nonsense", "BF16")])
def test_an_unknown_quant_is_rejected_with_similar_names(tiny: Path, name: str, near: str) -> None:
    with pytest.raises(InputError, match=f"{name}.*{near}"):
        plan_export(open_source(tiny), [name])


def test_too_little_disk_space_is_rejected_before_writing(tiny: Path, small_disk: Path) -> None:
    with pytest.raises(InputError, match=r"\d+ bytes are needed, \d+ are free"):
        export(open_source(tiny), {"F32": small_disk / "model.gguf"})
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_becomes_full_during_the_export_leaves_no_file(tiny: Path, small_disk: Path) -> None:
    def fill(progress: ExportProgress) -> None:
        if not (small_disk / "another").exists():
            with (small_disk / "another").open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:  # until the disk is full
                    file.write(bytes(1 << 16))

    with pytest.raises(InputError, match=r"model\.gguf: the disk is full .* needs \d+ bytes"):
        export(open_source(tiny), {"Q4_K_M": small_disk / "model.gguf"}, progress=fill, threads=1)
    assert [file.name for file in small_disk.iterdir()] == ["another"]


def test_a_file_size_limit_is_reported_like_a_full_disk(tiny: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from converters.errors import InputError; from converters.export import export, open_source\n"
        "try: export(open_source(sys.argv[1]), {'F32': __import__('pathlib').Path(sys.argv[2])})\n"
        "except InputError as error: print(error)"
    )
    target = tmp_path / "model.gguf"
    result = subprocess.run(
        [sys.executable, "-c", script, str(tiny), str(target)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000)),
    )
    assert f"{target}: the disk is full or a quota is reached ({os.strerror(errno.EFBIG)})" in result.stdout
    assert list(tmp_path.iterdir()) == []


def change_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.0.self_attn.k_proj.weight"] = torch.zeros(64, 256, dtype=torch.bfloat16)


def drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.layers.1.mlp.down_proj.weight"]


def add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.2.mlp.down_proj.weight"] = torch.zeros(256, 512, dtype=torch.bfloat16)


def quantize(tensors: dict[str, torch.Tensor]) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_shape, ["model.layers.0.self_attn.k_proj.weight", "(64, 256)", "(128, 256)"]),
        (drop, ["model.layers.1.mlp.down_proj.weight", "missing", "(256, 512)"]),
        (add, ["model.layers.2.mlp.down_proj.weight", "(256, 512)", "is not part of"]),
        (quantize, ["model.layers.1.mlp.down_proj.weight", "F8_E4M3"]),
    ],
)
def test_tensors_that_contradict_the_config_are_named(
    altered: Callable[..., Path], change: Callable[[dict[str, torch.Tensor]], None], words: list[str]
) -> None:
    directory = altered()
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError) as error:
        open_source(directory)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ({"architectures": None}, "qwen3"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "256"}, "hidden_size is '256'"),
        ({"hidden_size": -256}, "hidden_size is -256"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"head_dim": 63}, "head_dim"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4}}, "dynamic"),
        ({"attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
    ],
)
def test_configs_that_cannot_be_exported_are_rejected_by_key(
    altered: Callable[..., Path], settings: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        open_source(altered(**settings))


def test_a_redundant_output_matrix_is_written_as_llama_cpps_converter_does(altered: Callable[..., Path]) -> None:
    directory = altered()
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    safetensors.torch.save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    assert "output.weight" in [tensor.name for tensor in open_source(directory).tensors]


def test_an_untied_model_without_an_output_matrix_is_rejected(altered: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"lm_head\.weight.*missing"):
        open_source(altered(tie_word_embeddings=False))


def test_paths_without_a_model_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for path, words in (
        (tmp_path / "absent", "no such model"),
        (tmp_path / "notes.txt", "neither"),
        (tmp_path, "config.json"),
    ):
        with pytest.raises(InputError, match=words):
            open_source(path)
    (tmp_path / "model.safetensors").touch()
    for content in ("{", "[1]", "nonsense", "[" * 100_000):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match=r"config\.json.*JSON"):
            open_source(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Qwen3ForCausalLM"]}))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle"):
        open_source(tmp_path)
