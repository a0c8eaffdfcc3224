"""Weights of the vision tower are those of transformers' model, whose weights are counted but not allocated."""

import json
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from checkpoints import make_tokenizer
from tiny_configs import write_config
from transformers import AutoConfig, AutoModelForImageTextToText

from converters.errors import InputError
from converters.export import export, open_source
from converters.plan import plan_export
from converters.projector_file import read_projector
from converters.projector_source import ProjectorSource
from converters.resolver import Need
from sweep.analysis.fit_commands import fit_commands
from sweep.fit.fit_model import fit_model
from sweep.fit.fit_report import FitOptions, FitReport, FitRow, from_json, to_json
from sweep.fit.hardware import Device
from sweep.fit.image_tokens import ImageSize

CONFIGS = Path(__file__).parents[4] / "shared" / "reference" / "configs"
GPU = Device("a gpu", "cuda", 24 << 30, 24 << 30, 1e12, True, 1 << 30)
VISION: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 64,
    "intermediate_size": 160,
    "in_channels": 3,
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "num_position_embeddings": 64,
    "out_hidden_size": 256,
    "num_heads": 4,
    "deepstack_visual_indexes": [1],
}


def counted(config: Any) -> int:
    """Weights of the vision model in transformers."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    return sum(parameter.numel() for parameter in model.model.visual.parameters())


def fitted(model: str, **options: Any) -> tuple[FitRow, FitRow, FitReport]:
    """Rows of a GGUF and of a torch variant, without and with the tower, and the report with it."""
    report = fit_model(model, ["Q4_K_M", "int8:sq-ph"], [GPU], FitOptions(512, **options))
    return (*report.rows, report)  # type: ignore[return-value]


@pytest.mark.skipif(not CONFIGS.is_dir(), reason="the published configs are not here")
@pytest.mark.parametrize(
    "name", ["Qwen3-VL-2B-Instruct", "Qwen2.5-VL-3B-Instruct", "Qwen3.5-27B", "Qwen3.6-35B-A3B", "Qwen3.5-0.8B"]
)
def test_weights_of_published_towers_are_exact(name: str) -> None:
    """By the published config, and by the catalogue."""
    published = json.loads((CONFIGS / f"{name}.json").read_text())
    expected = counted(AutoConfig.for_model(**{**published}))
    for model in (str(CONFIGS / f"{name}.json"), name):
        tower = ProjectorSource(open_source(model, need=Need.PLAN))
        assert sum(tensor.elements for tensor in tower.tensors) == expected


def test_the_tower_counts_on_the_first_device_and_in_the_verdict(tmp_path: Path) -> None:
    directory = write_config(tmp_path / "model", "qwen35", vision_config=VISION)
    gguf, torch_row, plain = fitted(str(directory))
    with_tower, torch_with_tower, report = fitted(str(directory), projector=True)
    assert plain.projector is None
    tower = report.projector
    assert tower is not None
    size = tower.weights_bytes + tower.compute_bytes
    plan = plan_export(ProjectorSource(open_source(directory, need=Need.PLAN)), ["F16"])["F16"]
    assert (tower.weights_bytes, tower.file_bytes) == (plan.tensor_bytes, plan.file_bytes)
    assert tower.compute_bytes > 1 << 20
    assert with_tower.figures["projector"].bytes == size
    assert with_tower.figures["weights"] == gguf.figures["weights"]
    assert with_tower.total_bytes - gguf.total_bytes == size
    assert gguf.shares[0].free_bytes - with_tower.shares[0].free_bytes == size
    assert torch_with_tower.total_bytes - torch_row.total_bytes == 2 * plan.weights  # in bfloat16
    assert (with_tower.projector_type, gguf.projector_type) == ("F16", None)
    assert "--mmproj mmproj-model-F16.gguf" in with_tower.arguments
    assert from_json(to_json(report)) == report


def test_a_variant_that_names_a_projector_counts_that_one(tmp_path: Path, made: dict[str, Path]) -> None:
    directory = str(write_config(tmp_path / "model", "qwen35", vision_config=VISION))
    names = ["Q4_K_M", "q4_k_m+mmproj=q8_0", "Q4_K_M+mmproj=F32"]
    plain, small, large = fit_model(directory, names, [GPU], FitOptions(512)).rows
    assert (small.variant, small.projector_type) == ("Q4_K_M+mmproj=Q8_0", "Q8_0")
    expected = fit_model(directory, ["Q4_K_M"], [GPU], FitOptions(512, mmproj="Q8_0")).rows[0]
    assert small.figures == expected.figures
    assert small.total_bytes == expected.total_bytes
    assert plain.figures["projector"].bytes == 0 < small.figures["projector"].bytes < large.figures["projector"].bytes
    assert fit_commands(small, directory, {}, 512).get.endswith("--to Q4_K_M --mmproj Q8_0")
    with pytest.raises(InputError, match="only GGUF variants have a projector file"):
        fit_model(directory, ["int8:sq+mmproj=Q8_0"], [GPU], FitOptions(512))
    with pytest.raises(InputError, match="is a projector of kind"):
        fit_model(directory, [f"Q8_0+mmproj={made['qwen2vl mmproj']}"], [GPU], FitOptions(512))


def test_images_take_tokens_of_the_context(tmp_path: Path) -> None:
    directory = str(write_config(tmp_path / "model", "qwen35", vision_config=VISION, max_position_embeddings=32768))
    images = (ImageSize(1280, 960, 4), ImageSize(640, 480))
    report = fit_model(directory, ["Q4_K_M"], [GPU], FitOptions(images=images, mmproj="q8_0"))
    assert report.projector is not None
    assert report.projector.tokens == 4 * 40 * 30 + 20 * 15
    assert report.context == 8192 + report.projector.tokens  # by default, as much text as without images
    assert report.rows[0].projector_type == "Q8_0"
    assert fit_model(directory, ["Q4_K_M"], [GPU], FitOptions(6000, images=images)).context == 6000
    with pytest.raises(InputError, match=r"the images take 5100 tokens, but the context has 5000"):
        fit_model(directory, ["Q4_K_M"], [GPU], FitOptions(5000, images=images))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Text models and projector files of tiny models of the same width."""
    directory = tmp_path_factory.mktemp("made")
    found = {}
    for family, settings in {
        "qwen3vl": {}, "qwen2vl": {}, "other": {"vision": {"deepstack_visual_indexes": [1]}},
        "wide": {"hidden_size": 256},
    }.items():  # fmt: skip
        model = families.make_with_tower(
            "qwen3vl" if family in ("other", "wide") else family, directory / family, dtype=torch.bfloat16, **settings
        )
        make_tokenizer(model)
        source = open_source(model)
        for kind, of in (("text", source), ("mmproj", ProjectorSource(source))):
            (directory / f"{family}-{kind}").mkdir()
            found[f"{family} {kind}"] = directory / f"{family}-{kind}" / f"{kind}-{family}.gguf"
            export(of, {"BF16": found[f"{family} {kind}"]})
    return found


def test_the_projector_file_beside_a_gguf_file_is_counted(made: dict[str, Path], tmp_path: Path) -> None:
    text, projector = tmp_path / "vl.gguf", tmp_path / "mmproj-vl-BF16.gguf"
    text.symlink_to(made["qwen3vl text"])
    with pytest.raises(
        InputError, match=r"there is no projector file \(mmproj\*.gguf\) next to it; name one by --mmproj"
    ):
        fit_model(str(text), [], [GPU], FitOptions(projector=True))
    projector.symlink_to(made["qwen3vl mmproj"])
    (tmp_path / "mmproj-other.gguf").symlink_to(made["qwen2vl mmproj"])  # of another model: left out
    report = fit_model(str(text), [], [GPU], FitOptions(projector=True))
    assert report.projector is not None
    assert report.projector.name == str(projector)
    assert report.projector.file_bytes == projector.stat().st_size
    assert report.rows[0].projector_type is None
    assert f"--mmproj {projector}" in report.rows[0].arguments
    (tmp_path / "mmproj-second.gguf").symlink_to(made["qwen3vl mmproj"])
    with pytest.raises(InputError, match=r"several projector files of this model: mmproj-second.gguf, mmproj-vl-BF16"):
        fit_model(str(text), [], [GPU], FitOptions(projector=True))
    for mmproj in (str(projector), "bf16"):
        chosen = fit_model(str(text), [], [GPU], FitOptions(mmproj=mmproj))
        assert chosen.projector == report.projector


@pytest.mark.parametrize(
    ("projector", "message"),
    [
        (
            "qwen2vl mmproj",
            r"is a projector of kind 'qwen2.5vl_merger'; qwen3vl text \(qwen3vl\) needs 'qwen3vl_merger'",
        ),
        ("other mmproj", r"belongs to another model: it has 1 deepstack mergers, .* expects 2"),
        ("wide mmproj", r"belongs to another model: its embeddings have 256 values, those of .* 128"),
        ("qwen2vl text", r"is not a projector file \(its architecture is 'qwen2vl'\)"),
        ("absent", r"absent.gguf: there is no such file; make one from the checkpoint"),
        ("renamed", r"tensor 'v.blk.1.ffn_up.bias' has shape \(none\); by the file's header it should be \(100,\)"),
        ("narrow", r"hidden_size 64 with num_heads 3"),
    ],
)
def test_a_projector_file_of_another_model_is_rejected(
    made: dict[str, Path], tmp_path: Path, projector: str, message: str
) -> None:
    path = made.get(projector, tmp_path / f"{projector}.gguf")
    content = made["qwen3vl mmproj"].read_bytes()
    if projector == "renamed":
        path.write_bytes(content.replace(b"v.blk.1.ffn_up.bias", b"v.blk.1.ffn_xx.bias"))
    if projector == "narrow":
        key = b"clip.vision.attention.head_count" + (4).to_bytes(4, "little")
        path.write_bytes(content.replace(key + (2).to_bytes(4, "little"), key + (3).to_bytes(4, "little")))
    structure = open_source(made["qwen3vl text"]).structure
    with pytest.raises(InputError, match=message):
        read_projector(path, structure, "qwen3vl text")


def test_a_text_model_has_no_projector(made: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="has no vision_config, so it is a text model"):
        fit_model("Qwen3-4B", ["Q4_K_M"], [GPU], FitOptions(512, projector=True))
    with pytest.raises(
        InputError, match=r"of which no Q8_0 projector file can be made, and none is next to it; give a .gguf file"
    ):
        fit_model(str(made["qwen3vl text"]), [], [GPU], FitOptions(512, mmproj="Q8_0"))
    with pytest.raises(InputError, match=r"'Q2_K' is not a type of projector files"):
        fit_model("Qwen3-VL-2B-Instruct", ["Q4_K_M"], [GPU], FitOptions(512, mmproj="Q2_K"))
