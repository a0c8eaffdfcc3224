"""Variants and files whose types users choose: mix:FILE.toml, QUANT;REGEX=TYPE, and --tensor-type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call
from plans import planned

import presets
from converters.errors import InputError
from converters.llamacpp.reader import read_header
from sweep.jobs.export import ExportJob
from sweep.methods.registry import method, parse, parse_list

MICRO = presets.builtin_models()["micro"].directory


def mix(directory: Path, type_: str = "Q8_0") -> str:
    directory.mkdir(exist_ok=True)
    (directory / "mine.toml").write_text(f'base = "Q4_K_M"\nrules = [{{ tensors = ["attn_v"], type = "{type_}" }}]')
    return f"mix:{directory / 'mine.toml'}"


def export_of(name: str) -> ExportJob:
    (job,) = {cell.job for cell in planned(name).cells if isinstance(cell.job, ExportJob)}
    return job


def test_variants_have_short_names_and_their_methods_are_found_by_them(tmp_path: Path) -> None:
    first, second = mix(tmp_path / "a"), mix(tmp_path / "b")
    names = {
        first: "mix:mine",
        f"{first}+mmproj=q8_0": "mix:mine+mmproj=Q8_0",
        "q4_k_m;attn_v=Q8_0": "Q4_K_M;attn_v=Q8_0",
        "Q4_K_M;(?:attn)_v=Q8_0": "Q4_K_M;(?:attn)_v=Q8_0",
    }
    for text, name in names.items():
        assert parse(text).name == name
        assert method(name) is type(parse(text))
    assert [variant.name for variant in parse_list([first, first, second])] == ["mix:mine", second]


def test_a_changed_mix_is_another_variant_and_never_exported_for_the_old_one(tmp_path: Path) -> None:
    before = export_of(mix(tmp_path))
    after = export_of(mix(tmp_path, "Q6_K"))
    assert before.file != after.file
    assert before.label != after.label
    assert before.file_name == after.file_name == "m-mine.gguf"
    with pytest.raises(InputError, match=r"the mix has changed since the run was planned \(mine\.\w+ to mine\.\w+\)"):
        ExportJob.run_batch([before], None)  # type: ignore[arg-type]  # it is not used before the check


def test_a_rule_does_not_end_up_in_the_name_of_a_file() -> None:
    file = export_of("Q4_K_M;attn_v|a/b=Q8_0").file.name
    assert file.rpartition("/")[2].startswith("m-Q4_K_M-custom-")
    assert "attn_v" not in file


def test_convert_names_files_by_the_mix(tmp_path: Path) -> None:
    to = f"{mix(tmp_path)},Q8_0;attn_q=F16"
    done = call("convert", "micro", "--to", to, "--out", tmp_path / "new", "--format", "json")
    assert done.returncode == 0, done.stderr
    first, second = (Path(file["path"]) for file in json.loads(done.stdout.splitlines()[-1])["files"])
    assert first.name == "micro-mine.gguf"
    assert second.name.startswith("micro-Q8_0-custom-")
    types = {tensor.name: tensor.type.name for tensor in read_header(first).tensors}
    assert {type_ for name, type_ in types.items() if "attn_v" in name} == {"Q8_0"}
    again = call(
        "convert", "micro", "--to", "Q8_0", "--tensor-type", "attn_q=F16", "--out", tmp_path / "new", "--format", "json"
    )
    (same,) = json.loads(again.stdout.splitlines()[-1])["files"]
    assert Path(same["path"]) == second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--to", "Q8_0", "--tensor-type", "atn_v=F16"),
            "--tensor-type: no tensor of this model has a name like 'atn_v'",
        ),
        (("--to", "Q8_0", "--tensor-type", "attn_v"), "'attn_v': a rule for types is REGEX=TYPE"),
        (("--to", "rtn:w4", "--tensor-type", "attn_v=F16"), "--tensor-type: only GGUF quants use it"),
        (("--to", "mix:a/mine.toml,mix:b/mine.toml"), "both files would be called mine; rename one mix"),
        (("--to", "mix:no.toml"), "no.toml: the mix cannot be read (No such file or directory)"),
    ],
)
def test_bad_rules_give_one_line_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    mix(tmp_path / "a"), mix(tmp_path / "b")
    done = call("convert", "micro", *arguments, "--out", tmp_path / "new")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_fit_counts_the_types_of_a_mix(tmp_path: Path) -> None:
    names = f"Q4_K_M,{mix(tmp_path, 'F16')}"
    done = call("fit", str(MICRO), "--gpu", "8GiB", "--variants", names, "--format", "json")
    assert done.returncode == 0, done.stderr
    plain, own = json.loads(done.stdout)["rows"]
    assert own["variant"] == f"mix:{tmp_path / 'mine.toml'}"
    assert own["file_bytes"] > plain["file_bytes"]
