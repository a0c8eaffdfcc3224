"""`sweep ablate`: what each setting of an int8 recipe costs a model, over a design space of many."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from converters.errors import InputError
from sweep.cli.exits import Exit
from sweep.cli.output import FORMAT, WORKSPACE, Format, Output

if TYPE_CHECKING:
    from sweep.events import Event


class Dtype(StrEnum):
    """What the model computes in beside what a recipe quantizes."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


def ablate(
    model: str = typer.Argument("micro", help="A built-in model, a directory or a hub id."),
    design_space: Path | None = typer.Option(
        None,
        "--design-space",
        metavar="FILE.toml",
        help="Axes of recipes and the grids that cross them.",
        show_default="presets/int8-design-space.toml",
    ),
    perplexity: Path | None = typer.Option(None, "--perplexity", help="The text for perplexity."),
    window: int = typer.Option(512, "--window", min=4, help="Tokens of a perplexity window."),
    windows: int = typer.Option(64, "--windows", min=2, help="Windows to read, from the text's beginning."),
    calibration: str | None = typer.Option(
        None,
        "--calibration",
        metavar="FILE|NAME",
        help="The text to calibrate with.",
        show_default="micro's own, else wikitext-2",
    ),
    samples: int | None = typer.Option(
        None, "--samples", min=1, help="Pieces of the calibration text.", show_default="1000, or as many as it gives"
    ),
    length: int | None = typer.Option(None, "--length", min=8, help="Tokens of a piece.", show_default="256"),
    dtype: Dtype = typer.Option(Dtype.BFLOAT16, "--dtype", help="Of all that a recipe leaves float."),
    device: str | None = typer.Option(
        None, "--device", help="cpu, cuda, cuda:1.", show_default="cuda, if there is one"
    ),
    html: Path | None = typer.Option(
        None, "--html", help="Write the page with the heat maps here.", show_default="in the workspace"
    ),
    workspace: Path | None = WORKSPACE,
    format: Format = FORMAT,
) -> int:
    """Measure many int8 recipes on one model: perplexity and KL divergence of each, as a table and heat maps.

    Every recipe is kept as soon as it is measured; the same command goes on where it stopped.
    """
    if html is not None and not html.parent.is_dir():  # better said now than after all is measured
        raise InputError(f"{html}: there is no such directory; choose another --html FILE")
    from converters.atomic import write_text
    from sweep.commands import ablate as command  # loads torch and transformers, which --help does not need
    from sweep.report.ablation import render_ablation
    from sweep.report.ablation_html import render_page
    from sweep.report.csv_json import finite
    from sweep.results.progress import RunProgress

    output = Output(format)
    wanted = command.AblationRequest(
        model=model,
        space=design_space,
        calibration=calibration,
        samples=samples,
        length=length,
        perplexity=perplexity,
        window=window,
        windows=windows,
        dtype=dtype,
        device=device,
        workspace=workspace,
    )
    plan = command.prepare(wanted, output.say)
    recipes = {cell.label: plan.recipes.get(cell.key) for cell in plan.cells}
    state = RunProgress.of(plan.cells)
    with Bar(
        TextColumn("{task.description:.36}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=output.messages,
        transient=True,
        disable=not output.shows_progress,
    ) as bar:
        task = bar.add_task("looking what is known", total=1.0)

        def tell(event: Event) -> None:
            state.update(event)
            name = (event.cell or "").partition("/")[2]
            bar.update(task, completed=state.share, description=name or "looking what is known")
            known = event.data["cells"] - event.data["todo"] if event.event == "started" else 0
            if known and event.data["todo"]:
                output.say(f"{known} of {event.data['cells']} cells are known already")
            recipe = recipes.get(event.cell or "")
            if event.event not in ("cell_done", "cell_failed") or recipe is None:
                return
            error = event.data.get("error")
            if output.is_json:
                status = "ok" if error is None else "failed"
                output.line({"event": "point", "recipe": recipe.to_json(), "status": status})
            elif error is not None or not output.shows_progress:
                output.say(f"{name}: {error or '{:.1f} s'.format(event.data['seconds'])}")

        found, page = command.ablate(plan, tell)
    if html is None:
        html = page
        page.parent.mkdir(exist_ok=True)
    write_text(html, render_page(found))
    if output.is_json:
        output.line({"event": "finished", "html": str(html), **finite(found.to_json())})
    else:
        output.show(render_ablation(found, output.data.width))
        if output.format is not Format.QUIET:
            output.show(f"\nHeat maps: {html}")
    return Exit.CELLS_FAILED if found.failed else Exit.OK
