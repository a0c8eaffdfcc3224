"""The options of `sweep run` and `sweep eval`: one table for the command line, its help and the Plan screen."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sweep.cli.options import EVAL, RUN, Option, with_options
from sweep.planning.request import Request

OPTIONS = {option.field: option for option in RUN}


def parsed(options: tuple[Option, ...], *line: str) -> Request:
    """The request that typer and the table make of a command line."""
    seen: list[Request] = []

    @with_options(*options)
    def command(request: Request) -> int:
        seen.append(request)
        return 0

    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, list(line))
    assert result.exit_code == 0, result.output
    return seen[0]


def test_a_command_line_without_options_gives_the_default_request() -> None:
    assert parsed(RUN) == parsed(EVAL) == Request()


def test_every_field_of_a_request_has_one_option() -> None:
    names = {field.name for field in fields(Request)}
    assert {option.field for option in RUN} == names - {"quant", "write_base", "force", "windows"}
    assert names - {option.field for option in EVAL} == {
        "preset", "variants", "reference", "imatrix", "calibration", "audio", "language", "keep", "gpu", "dry_run",
        "tolerance",
        "min_tps", "max_kld", "min_recovery", "export", "effort", "search", "requantize", "windows",
    }  # fmt: skip
    for options in (RUN, EVAL):
        assert len({option.field for option in options}) == len(options)


@pytest.mark.parametrize(
    ("field", "text", "arguments", "value"),
    [
        ("tasks", "a, b", ["--tasks", "a, b"], ("a", "b")),
        ("limit", " 5 ", ["--limit", "5"], 5),
        ("thinking", "off", ["--thinking", "off"], False),
        ("chat_template", "yes", ["--chat-template"], True),
        ("chat_template", "no", ["--no-chat-template"], False),
        ("allow_code", "yes", ["--allow-code-execution"], True),
        ("gpu", "2xRTX 4090, 24GiB,", ["--gpu", "2xRTX 4090", "--gpu", "24GiB"], ("2xRTX 4090", "24GiB")),
        ("tensor_split", "3,1", ["--tensor-split", "3,1"], (3.0, 1.0)),
        ("task_data", "~/data", ["--task-data", str(Path.home() / "data")], Path.home() / "data"),
        ("perplexity", "~/t.txt", ["--perplexity", "~/t.txt"], (Path.home() / "t.txt",)),
        ("keep", "", [], None),
    ],
)
def test_a_value_survives_the_way_through_the_command_line(
    field: str, text: str, arguments: list[str], value: object
) -> None:
    assert OPTIONS[field].arguments(text) == arguments
    assert getattr(parsed(RUN, *arguments), field) == value


def test_choices_leave_out_the_default() -> None:
    offered = {name: option.choices for name, option in OPTIONS.items() if option.choices}
    assert offered == {
        "requantize": ("yes",),
        "effort": ("quick", "normal", "thorough"),
        "search": ("smallest-first",),
        "chat_template": ("yes", "no"),
        "thinking": ("on", "off"),
        "thinking_scoring": ("lm-eval",),
        "allow_code": ("yes",),
        "parse_special": ("yes",),
        "keep": ("all", "best", "none"),
        "dry_run": ("yes",),
    }
