"""`sweep presets`: the sweeps and the lists of tasks that come with the program."""

from __future__ import annotations

from rich.table import Table

from sweep.cli.output import FORMAT, Format, Output


def presets(format: Format = FORMAT) -> None:
    """List the sweeps that --preset takes (any TOML file of the same keys, too), and the lists that --tasks takes."""
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
    for column in ("preset", "what", "variants"):
        table.add_column(column)
    for preset in known:
        table.add_row(preset.name, preset.title, " ".join(preset.variants))
    table.add_row()
    table.add_row("task list", "", "tasks")
    for tasks in lists:
        table.add_row(tasks.name, tasks.title, " ".join(name for name, _ in tasks.tasks))
    output.show(table)
