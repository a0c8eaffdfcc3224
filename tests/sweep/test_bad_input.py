"""Bad input gives one line on stderr that says what is wrong and where, the exit code, and leaves no file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import COMMAND, call

import presets
from converters.errors import InputError
from converters.export import export, open_source
from sweep.artefact import Artefact
from sweep.jobs.base import CheckPassed, Site
from sweep.jobs.inputs import Task
from sweep.jobs.prompt_check import PromptCheckJob, TemplateSource
from sweep.measure.task_options import TaskOptions

MICRO = presets.builtin_models()["micro"]


def error_line(*arguments: str, code: int = 2) -> str:
    """The only line that the command prints on stderr."""
    return _line(call(*arguments), code)


def error_line_without_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> str:
    """The same without a network, in a new process: huggingface_hub reads its environment when it is imported."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: a connection fails at once
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    command = [*COMMAND, *arguments, "--workspace", str(tmp_path / "w")]
    return _line(subprocess.run(command, capture_output=True, text=True, timeout=120), 2)


def _line(result: subprocess.CompletedProcess[str], code: int) -> str:
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert "Retrying in" not in result.stderr  # the client of the hub would wait for half a minute
    lines = [line for line in result.stderr.splitlines() if line.startswith("sweep: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the built-in model's directory, which may be damaged."""
    return Path(shutil.copytree(MICRO.directory, tmp_path / "model"))


def edit_config(directory: Path, **changes: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rewrite_weights(directory: Path, change: Callable[[dict[str, object]], None]) -> None:
    from safetensors.torch import load_file, save_file

    file = directory / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})


def drop_norm(weights: dict[str, object]) -> None:
    del weights["model.norm.weight"]


def misshape(weights: dict) -> None:
    weights["model.layers.0.mlp.up_proj.weight"] = weights["model.layers.0.mlp.up_proj.weight"][:, :-1].contiguous()


def poison(weights: dict) -> None:
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")


def truncate(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def lose_shard(directory: Path) -> None:
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "model.safetensors").unlink()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "config.json"),
    "config is not JSON": (lambda d: (d / "config.json").write_text("{"), "config.json"),
    "another architecture": (
        lambda d: edit_config(d, architectures=["LlamaForCausalLM"], model_type="llama"),
        "lama",
    ),
    "missing shard": (lose_shard, "model-00002-of-00002.safetensors"),
    "truncated weights": (truncate, "model.safetensors"),
    "missing tensor": (lambda d: rewrite_weights(d, drop_norm), "model.norm.weight"),
    "misshapen tensor": (lambda d: rewrite_weights(d, misshape), "model.layers.0.mlp.up_proj.weight"),
    "NaN weight": (lambda d: rewrite_weights(d, poison), "model.layers.1.mlp.up_proj.weight"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "tokenizer.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_error_for_a_damaged_checkpoint_names_the_damage(damage: str, copy: Path, tmp_path: Path) -> None:
    change, message = DAMAGES[damage]
    change(copy)
    workspace = tmp_path / "w"
    line = error_line(
        "run", str(copy), "--tasks", "none", "--perplexity", str(MICRO.text), "--workspace", str(workspace)
    )
    assert message in line
    assert not [file for file in workspace.rglob("*") if file.suffix in (".gguf", ".partial", ".part")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("/no/such/directory",), "/no/such/directory"),
        (("mikro",), "did you mean micro"),
        (("--preset", "q2-q9"), "did you mean q2-q8"),
        (("--variants", "Q4_K_X"), "Q4_K_"),
        (("--variants", "=Q8_0", "--tasks", "micro_sum"), "unknown task 'micro_sum'; did you mean micro_sums"),
        (("/no/such/model", "--tasks", "none,hellasvag"), "did you mean hellaswag"),  # before the model is looked for
        (("--tasks", "j", "--dry-run"), "unknown task 'j'; did you mean jfinqa"),
        (("--tasks", "none,no/such.yaml", "--dry-run"), "no/such.yaml: there is no such task file"),
        (("--perplexity", "/no/such/text"), "/no/such/text"),
        (("--task-data", "/no/such/folder", "--tasks", "x"), "/no/such/folder"),
        (("--ctx", "100000"), "--ctx"),
        (("--limit", "0"), "--limit"),
        (("--tensor-split", "3,x"), "--tensor-split"),
        (("org/name", "--gpu", "RTX 4099"), "did you mean RTX 4090"),
        (("--nonsense",), "--nonsense"),
        (("long" * 1500,), "File name too long"),
    ],
)
def test_bad_arguments_are_rejected(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    assert message in error_line("run", *arguments, "--workspace", str(tmp_path / "w"))
    assert not list((tmp_path / "w").rglob("*.gguf"))


def test_a_task_that_does_not_exist_is_rejected_wherever_it_is_named(tmp_path: Path) -> None:
    preset = tmp_path / "own.toml"
    preset.write_text('title = "own"\nreference = "BF16"\nvariants = ["BF16"]\ntasks = ["micro_from"]\n')
    assert "did you mean micro_form" in error_line("run", "--preset", str(preset), "--dry-run")
    assert "did you mean micro_form" in error_line("eval", "micro", "--tasks", "micro_from")
    (tmp_path / "mine.yaml").write_text("task: my_own_task\n")
    folder = ("--task-data", str(tmp_path))
    assert "did you mean my_own_task" in error_line("run", "--tasks", "my_own_tsk", *folder, "--dry-run")


def test_a_workspace_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.touch()
    assert f"{file}/w: the workspace cannot be written" in error_line("run", "--workspace", str(file / "w"))


def test_a_text_that_is_too_short_is_rejected_before_any_measurement(tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("too short")
    line = error_line("run", "--perplexity", str(text), "--tasks", "none", "--workspace", str(tmp_path / "w"))
    assert "at least 1024" in line


def test_the_error_for_a_hub_id_without_a_network_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    line = error_line_without_hub(monkeypatch, tmp_path, "run", "Qwen/Qwen3-0.6B")
    assert "Qwen/Qwen3-0.6B" in line
    assert "directory of a downloaded checkpoint" in line


def test_data_that_cannot_be_downloaded_stop_the_run_before_any_work(
    copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    line = error_line_without_hub(
        monkeypatch, tmp_path, "run", str(copy), "--tasks", "none", "--workspace", str(tmp_path / "w")
    )
    assert "is not available (http://127.0.0.1:9 cannot be reached, and the cache has no copy)" in line
    assert "--perplexity" in line
    assert not list((tmp_path / "w").rglob("*.gguf"))


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom sweep.cli import main\nsys.argv = ['sweep', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "heavy = {'numpy', 'torch', 'transformers', 'llama_cpp', 'lm_eval', 'scipy', 'textual'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else code)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "run" in result.stdout


def test_a_text_with_a_bad_byte_is_rejected_wherever_it_is(tmp_path: Path) -> None:
    bad, wide, task = tmp_path / "bad.txt", tmp_path / "wide.txt", tmp_path / "t.yaml"
    bad.write_bytes(b"a word " * 5000 + b"\xff" + b" a word" * 5000)
    wide.write_bytes(("a word " * 5000).encode("utf-16"))
    options = ["--workspace", str(tmp_path / "w")]
    run, matrix = ["run", "micro", "--variants", "=Q4_K_M"], ["--imatrix", "auto", "--calibration"]
    recipe = ["run", "micro", "--variants", "=int8:sq-ph-dyn", "--calibration"]
    for command in ([*run, "--perplexity"], [*run, *matrix], recipe, ["eval", "micro", "--perplexity"]):
        assert f"{bad}: not UTF-8 text (byte 35000)" in error_line(*command, str(bad), *options)
        assert f"{wide}: UTF-16, not UTF-8 text" in error_line(*command, str(wide), *options)
    unmarked = tmp_path / "unmarked.txt"  # UTF-16 without a mark, which is valid UTF-8
    unmarked.write_bytes(("a word " * 5000).encode("utf-16-le"))
    assert f"{unmarked}: not UTF-8 text (byte 1 is 0" in error_line("eval", "micro", "--perplexity", str(unmarked))
    convert = ["convert", "micro", "--to", "Q4_K_M", "--out", str(tmp_path / "out"), *matrix]
    assert f"{wide}: UTF-16, not UTF-8 text" in error_line(*convert, str(wide))
    wide.rename(task)
    assert f"{task}: UTF-16, not UTF-8 text" in error_line("eval", "micro", "--tasks", str(task), *options)
    assert not (tmp_path / "w" / "artefacts").exists()


def test_a_calibration_text_that_is_too_short_is_rejected_before_any_work(tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("too short " * 50)
    run = ["run", "micro", "--variants", "=Q4_K_M", "--tasks", "none", "--workspace", str(tmp_path / "w")]
    line = error_line(*run, "--imatrix", "auto", "--calibration", str(short))
    assert "the calibration text has " in line
    convert = ["convert", "micro", "--to", "Q4_K_M", "--out", str(tmp_path / "out")]
    assert "the calibration text has " in error_line(*convert, "--imatrix", "auto", "--calibration", str(short))
    assert not list(tmp_path.rglob("*.gguf"))


def test_a_chat_template_that_fails_is_rejected_before_any_work(copy: Path, tmp_path: Path) -> None:
    (copy / "chat_template.jinja").write_text("{{ raise_exception('No user query found in messages.') }}")
    options = ["--tasks", "micro_form", "--chat-template", "--workspace", str(tmp_path / "w")]
    assert "No user query found in messages." in error_line("eval", str(copy), *options)
    assert not list((tmp_path / "w").rglob("*.gguf"))


def test_the_template_of_every_file_is_checked(copy: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    export(open_source(copy, "good"), {"Q8_0": good})
    (copy / "chat_template.jinja").write_text("{{ nothing.here }}")
    export(open_source(copy, "bad"), {"Q8_0": bad})
    options = TaskOptions(chat_template=True)
    tasks = (Task("micro_form", Artefact.of(MICRO.task_directory), options=options),)
    sources = [TemplateSource(Artefact.of(file), file.name) for file in (good, bad)]
    assert PromptCheckJob((sources[0],), tasks).run(Site(tmp_path)) == CheckPassed()
    with pytest.raises(InputError, match=f"{bad}: the chat template fails: 'nothing' is undefined"):
        PromptCheckJob(tuple(sources), tasks).run(Site(tmp_path))
