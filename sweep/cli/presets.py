"""`sweep presets`: the built-in presets and lists of tasks."""

from __future__ import annotations

from rich.table import Table

from sweep.cli import common_options as common
from sweep.cli.output import Format, Output

EXAMPLES = """
List the presets and the lists of tasks:
  $ sweep presets
"""


def presets(format: Format = common.FORMAT) -> None:
    """List the built-in presets (for --preset) and lists of tasks (for --tasks).

    A preset is a list of variants. --preset also accepts a TOML file with the same keys.
    """
    import presets as data
    from sweep.planning.preset import load

    output = Output(format)
    known = [load(name) for name in data.sweeps()]
    lists = list(data.task_lists().values())
    if output.is_json:
        for preset in known:
            output.line({"preset": preset.name, "title": preset.title, "variants": list(preset.variants)})
        for tasks in lists:
            output.line({"task_list": tasks.name, "title": tasks.title, "tasks": [name for name, _ in tasks.tasks]})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("preset", "description", "variants"):
        table.add_column(column)
    for preset in known:
        table.add_row(preset.name, preset.title, " ".join(preset.variants))
    table.add_row()
    table.add_row("task list", "", "tasks")
    for tasks in lists:
        table.add_row(tasks.name, tasks.title, " ".join(name for name, _ in tasks.tasks))
    output.show(table)
