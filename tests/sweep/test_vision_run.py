"""`sweep run` of a vision-language model to its end: GGUF with two projector files, int8 with and without the tower."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call

import presets

pytestmark = pytest.mark.slow

VL = presets.builtin_models()["micro-vl"]
VARIANTS = ("BF16", "Q4_K_M", "Q4_K_M+mmproj=Q4_0", "int8:sq-ph-dyn", "int8:sq-ph-dyn+vision")


def test_text_decoder_projector_and_tower_are_told_apart(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(VL.text.read_text()[:20_000])
    arguments = ["--perplexity", text, "--tasks", "vl_form,vl_words", "--limit", "12", "--workspace", tmp_path / "w"]
    done = call("run", "micro-vl", "--variants", f"={','.join(VARIANTS)}", *arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    finished = json.loads(done.stdout.splitlines()[-1])
    records = {record["variant"]: record for record in finished["records"]}
    assert list(records) == [*VARIANTS[:3], "torch:BF16", *VARIANTS[3:]]
    for name, record in records.items():
        assert set(record["tasks"]) == {"vl_form", "vl_words"}
        assert all(score["n"] == 12 for score in record["tasks"].values()), name
    form = {name: record["image_divergence"].get("vl_form") for name, record in records.items()}
    assert form["BF16"] is form["torch:BF16"] is None
    assert form["Q4_K_M+mmproj=Q4_0"]["kld_mean"] > 2 * form["Q4_K_M"]["kld_mean"]
    assert form["int8:sq-ph-dyn"]["kld_mean"] < form["Q4_K_M"]["kld_mean"] / 2
    assert form["int8:sq-ph-dyn+vision"]["kld_mean"] < form["Q4_K_M"]["kld_mean"] / 2
    plain, other = records["Q4_K_M"], records["Q4_K_M+mmproj=Q4_0"]
    assert other["divergence"] == plain["divergence"], "the text is measured once for both"
    assert other["projector"]["file_bytes"] < plain["projector"]["file_bytes"]
    (report,) = tmp_path.glob("w/runs/*/report.html")
    page = report.read_text()
    assert "Items whose answer changed" in page
    assert "data:image/png;base64," in page
