"""Projector files hold the values of the checkpoint's vision tower, in one pass with the text model's files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from checkpoints import make_tokenizer
from gguf import GGUFReader
from safetensors.torch import load_file
from test_export import quantize_by_llama_cpp

from converters.errors import InputError
from converters.export import Export, ExportProgress, export, export_all
from converters.llamacpp.reader import read_header
from converters.plan import plan_export
from converters.projector_source import ProjectorSource
from converters.recipes import projector_recipes
from converters.resolver import Need, open_source


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3-VL with deepstack mergers behind blocks 0 and 2."""
    directory = families.make_with_tower("qwen3vl", tmp_path_factory.mktemp("qwen3vl"), dtype=torch.bfloat16)
    make_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.make_with_tower("qwen2vl", tmp_path_factory.mktemp("qwen2vl"), dtype=torch.bfloat16)


@pytest.fixture
def changed(model: Path, tmp_path: Path) -> Callable[..., Path]:
    """The model with other entries in its vision_config (None removes one)."""

    def change(**settings: Any) -> Path:
        directory = tmp_path / "changed"
        directory.mkdir()
        for file in model.iterdir():
            (directory / file.name).symlink_to(file)
        config = json.loads((model / "config.json").read_text())
        vision = {**config["vision_config"], **settings}
        config["vision_config"] = {key: value for key, value in vision.items() if value is not None}
        (directory / "config.json").unlink()
        (directory / "config.json").write_text(json.dumps(config))
        return directory

    return change


def values(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {tensor.name: np.asarray(tensor.data, np.float32) for tensor in GGUFReader(file).tensors}


def test_deepstack_mergers_and_patch_embeddings_are_those_of_the_checkpoint(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "F32.gguf"
    export(ProjectorSource(open_source(model)), {"F32": file})
    stored = {name: tensor.float().numpy() for name, tensor in load_file(model / "model.safetensors").items()}
    found = values(file)
    patch = stored["model.visual.patch_embed.proj.weight"]
    assert np.array_equal(found["v.patch_embd.weight"], patch[:, :, 0])
    assert np.array_equal(found["v.patch_embd.weight.1"], patch[:, :, 1])
    second = stored["model.visual.deepstack_merger_list.1.linear_fc2.weight"]
    assert np.array_equal(found["v.deepstack.2.fc2.weight"], second)
    assert np.array_equal(found["v.blk.1.attn_qkv.bias"], stored["model.visual.blocks.1.attn.qkv.bias"])
    assert sum(value.size for value in found.values()) == sum(
        tensor.size for name, tensor in stored.items() if ".visual." in name
    )


def test_queries_keys_and_values_of_qwen2_5_are_split(qwen2: Path, tmp_path: Path) -> None:
    file = tmp_path / "F16.gguf"
    export(ProjectorSource(open_source(qwen2)), {"F16": file})
    stored = {name: tensor.float().numpy() for name, tensor in load_file(qwen2 / "model.safetensors").items()}
    (weight,) = (tensor for name, tensor in stored.items() if name.endswith("visual.blocks.2.attn.qkv.weight"))
    (bias,) = (tensor for name, tensor in stored.items() if name.endswith("visual.blocks.2.attn.qkv.bias"))
    found = values(file)
    for i, kind in enumerate("qkv"):
        assert np.array_equal(found[f"v.blk.2.attn_{kind}.weight"], weight[64 * i : 64 * (i + 1)].astype(np.float16))
        assert np.array_equal(found[f"v.blk.2.attn_{kind}.bias"], bias[64 * i : 64 * (i + 1)])


def test_quantized_projector_files_equal_those_of_llama_cpps_quantizer(model: Path, tmp_path: Path) -> None:
    source = ProjectorSource(open_source(model))
    ours = {quant: tmp_path / f"{quant}.gguf" for quant in ("BF16", "Q8_0", "Q4_0")}
    export(source, ours)
    for quant in ("Q8_0", "Q4_0"):
        theirs = tmp_path / "theirs.gguf"
        quantize_by_llama_cpp(ours["BF16"], theirs, quant)
        assert ours[quant].read_bytes() == theirs.read_bytes()
    census = plan_export(source, ["Q8_0"])["Q8_0"].census
    assert census["F16"].tensors == 3  # ffn_down of each block: 100 weights per row do not fit blocks of 32


def test_text_and_projector_are_written_in_one_pass(model: Path, tmp_path: Path) -> None:
    text = open_source(model)
    projector = ProjectorSource(text)
    reads: list[str] = []
    for source in (text, projector):
        read = source.read_rows

        def listen(name: str, start: int, stop: int, read: Any = read) -> Any:
            reads.append(f"{name} {start}")
            return read(name, start, stop)

        source.read_rows = listen  # type: ignore[method-assign]
    exports = [
        Export(text, {quant: tmp_path / f"text-{quant}.gguf" for quant in ("Q8_0", "Q4_K_M")}),
        Export(projector, {quant: tmp_path / f"projector-{quant}.gguf" for quant in ("F16", "Q8_0")}),
    ]
    export_all(exports)
    assert len(reads) == len(set(reads))  # four files, but no row twice
    assert {tensor.name for source in (text, projector) for tensor in source.tensors} == {
        name.partition(" ")[0] for name in reads
    }
    for source, kind in ((open_source(model), "text"), (ProjectorSource(open_source(model)), "projector")):
        alone = tmp_path / "alone.gguf"
        export(source, {"Q8_0": alone})
        assert alone.read_bytes() == (tmp_path / f"{kind}-Q8_0.gguf").read_bytes()


@pytest.mark.parametrize("with_text", [True, False])
def test_an_interrupted_export_resumes_with_or_without_the_text_model(
    model: Path, tmp_path: Path, with_text: bool
) -> None:
    whole, cut = tmp_path / "whole.gguf", tmp_path / "cut.gguf"
    export(ProjectorSource(open_source(model)), {"Q8_0": whole})

    def both() -> list[Export]:
        source = open_source(model)
        return [
            Export(source, {"Q8_0": tmp_path / "text.gguf"}),
            Export(ProjectorSource(source), {"Q8_0": cut}),
        ]

    def interrupt(progress: ExportProgress) -> None:
        if progress.tensor == "v.blk.2.ffn_up.weight":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_all(both(), progress=interrupt, threads=1)
    assert not cut.exists()
    assert not (tmp_path / "text.gguf").exists()  # complete, but the files appear together
    seen: list[str] = []
    export_all(both()[not with_text :], progress=lambda progress: seen.append(progress.tensor), threads=1)
    assert cut.read_bytes() == whole.read_bytes()
    assert "v.blk.0.attn_qkv.weight" not in seen


def test_a_full_disk_leaves_no_file_of_both(model: Path, small_disk: Path) -> None:
    source = open_source(model)
    text = {quant: small_disk / f"{quant}.gguf" for quant in ("BF16", "F16", "F32")}
    with pytest.raises(InputError, match=r"bytes are needed"):
        export_all([Export(source, text), Export(ProjectorSource(source), {"F32": small_disk / "mmproj.gguf"})])
    assert list(small_disk.iterdir()) == []


def test_a_config_alone_plans_the_same_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    config = ProjectorSource(open_source(tmp_path / "config.json", need=Need.PLAN))
    checkpoint = ProjectorSource(open_source(model))
    for quant in ("F16", "Q8_0"):
        own, other = (plan_export(source, [quant])[quant] for source in (config, checkpoint))
        assert own.tensors == other.tensors
        assert own.metadata["clip.vision.image_mean"] == other.metadata["clip.vision.image_mean"]
    with pytest.raises(InputError, match=r"is a config without weights"):
        config.read_rows("mm.0.weight", 0, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 4}, r"tensor 'visual.blocks.3.norm1.weight' is missing"),
        ({"depth": 1000}, r"vision_config.depth is 1000; expected a whole number from 1 to 512"),
        ({"hidden_size": None}, r"vision_config.hidden_size is missing"),
        ({"out_hidden_size": 64}, r"out_hidden_size is 64, but the text model's hidden_size is 128"),
        ({"num_heads": 3}, r"hidden_size 64 with num_heads 3"),
        ({"temporal_patch_size": 1}, r"temporal_patch_size is 1; llama.cpp supports only 2"),
        ({"spatial_merge_size": 4}, r"spatial_merge_size is 4; llama.cpp supports only 2"),
        ({"num_position_embeddings": 65}, r"num_position_embeddings is 65; .* must be a square"),
        ({"deepstack_visual_indexes": [0, 3]}, r"expected a list of blocks below 3"),
        ({"deepstack_visual_indexes": [2, 0]}, r"not in rising order"),
        ({"deepstack_visual_indexes": [0]}, r"deepstack_merger_list.1.* is not part of a vision tower"),
        ({"hidden_act": "silu"}, r"hidden_act is silu; llama.cpp supports only gelu_pytorch_tanh"),
        ({"patch_size": 8}, r"patch_embed.proj.weight' has shape \(64, 3, 2, 16, 16\); by config.json it should be"),
    ],
)
def test_a_tower_that_does_not_match_its_config_is_rejected_by_key(
    changed: Callable[..., Path], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ProjectorSource(open_source(changed(**settings)))


@pytest.mark.parametrize("indexes", [[0, 1], [], [-1], "all", [2, 5]])
def test_windows_that_llama_cpp_cannot_do_are_rejected(qwen2: Path, tmp_path: Path, indexes: object) -> None:
    config = json.loads((qwen2 / "config.json").read_text())
    config["vision_config"]["fullatt_block_indexes"] = indexes
    (tmp_path / "config.json").write_text(json.dumps(config))
    if indexes == [2, 5]:  # every third block
        assert ProjectorSource(open_source(tmp_path, need=Need.PLAN)).structure["clip.vision.n_wa_pattern"].value == 3
        return
    with pytest.raises(InputError, match=r"fullatt_block_indexes is .*; llama.cpp supports only every n-th block"):
        ProjectorSource(open_source(tmp_path, need=Need.PLAN))


def test_models_without_a_tower_and_without_a_normalization_are_rejected(
    tiny: Path, changed: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"config.json: has no vision_config, so it is a text model"):
        ProjectorSource(open_source(tiny))
    file = tmp_path / "text.gguf"
    export(open_source(tiny), {"BF16": file})
    with pytest.raises(InputError, match=r"is a GGUF file, which has no vision tower"):
        ProjectorSource(open_source(file))
    directory = changed()
    (directory / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"has no preprocessor_config.json, which states how pictures are normalized"):
        ProjectorSource(open_source(directory))
    for content, message in (
        ({"image_mean": [0.5, 0.5], "image_std": [0.5] * 3}, r"image_mean is \[0.5, 0.5\]; expected three numbers"),
        ({"image_mean": [0.5] * 3, "image_std": [0, 1, 1]}, r"image_std is \[0, 1, 1\]; expected three numbers"),
        ({"image_mean": [0.5] * 3}, r"image_std is null; expected three numbers"),
    ):
        (directory / "processor_config.json").write_text(json.dumps({"image_processor": content}))
        with pytest.raises(InputError, match=rf"processor_config.json: {message}"):
            ProjectorSource(open_source(directory))


@pytest.mark.parametrize("name", ["Q9", "Q2_K", "IQ4_XS", "IQ2_M", "Q4_K_XL", "MXFP4_MOE"])
def test_quants_that_llama_cpp_has_no_projector_files_of_are_rejected(name: str) -> None:
    with pytest.raises(InputError, match=rf"'{name}' is not a type of projector files; give one of F32, F16"):
        projector_recipes([name])


def test_a_projector_file_that_llama_cpp_cannot_load_is_not_left_behind(model: Path, tmp_path: Path) -> None:
    source = ProjectorSource(open_source(model))
    source.structure = {**source.structure, "clip.projector_type": source.structure["general.name"]}
    with pytest.raises(InputError, match=r"llama.cpp cannot load this projector file"):
        export(source, {"F16": tmp_path / "F16.gguf"})
    assert list(tmp_path.iterdir()) == []


def test_the_config_of_a_file_is_that_of_its_checkpoint(model: Path, qwen2: Path, tmp_path: Path) -> None:
    for directory in (model, qwen2):
        source = ProjectorSource(open_source(directory))
        file = tmp_path / "F16.gguf"
        export(source, {"F16": file})
        stated = json.loads((directory / "config.json").read_text())["vision_config"]
        known = source.tower.vision_config(read_header(file))
        tensors = [
            [(weight.name, weight.shape) for weight in source.tower.weights(config, 128)] for config in (stated, known)
        ]
        assert tensors[0] == tensors[1]
