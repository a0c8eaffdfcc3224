"""`sweep presets`: the sweeps that come with the program."""

from __future__ import annotations

from rich.table import Table

from sweep.cli.output import FORMAT, Format, Output


def presets(format: Format = FORMAT) -> None:
    """List the sweep presets; any TOML file of the same keys can be given to --preset too."""
    import presets as data
    from sweep.preset import load

    output = Output(format)
    known = [load(name) for name in data.sweeps()]
    if output.is_json:
        for preset in known:
            output.line({"preset": preset.name, "title": preset.title, "variants": list(preset.variants)})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("preset", "what", "variants"):
        table.add_column(column)
    for preset in known:
        table.add_row(preset.name, preset.title, " ".join(preset.variants))
    output.show(table)
