"""docs/cli.md is what tools/write_cli_reference.py writes from the present options."""

from __future__ import annotations

from tools.write_cli_reference import PAGE, reference


def test_the_reference_is_up_to_date() -> None:
    assert PAGE.read_text() == reference(), "run: python tools/write_cli_reference.py"


def test_the_reference_has_every_command_and_escapes_bars_in_tables() -> None:
    page = reference()
    assert page.count("\n## sweep ") == 13
    assert "| `--keep all\\|best\\|none` | all that were made; none of those downloaded" in page
    assert all(line.count("|") - line.count("\\|") in (3, 4) for line in page.splitlines() if line.startswith("|"))
