"""`sweep ablate`: how much accuracy each setting of a recipe costs a model, over a design space of recipes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from converters.errors import InputError
from sweep.cli import common_options as common
from sweep.cli.exits import exit_code
from sweep.cli.help import Panel
from sweep.cli.output import Format, Output
from sweep.cli.progress_bars import share_bar
from sweep.endings import EVENTS

if TYPE_CHECKING:
    from sweep.events import Event

EXAMPLES = """
Measure the built-in design space of int8 (a few minutes):
  $ sweep ablate micro --windows 8 --samples 16
Change one setting of GPTQ at a time, the number of samples for example:
  $ sweep ablate micro --base gptq:w3g128
Only two of the settings, of a recipe file of your own:
  $ sweep ablate micro --base ptq:mine.toml --axes order,calibration
Measure your own recipes on a model of the Hugging Face Hub, on a GPU:
  $ sweep ablate Qwen/Qwen3-4B --design-space my-recipes.toml --device cuda
"""


class Dtype(StrEnum):
    """The dtype of everything that a recipe does not quantize."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


def ablate(
    model: str = common.model(common.BUILT_IN, common.CHECKPOINT, common.HUB_ID),
    design_space: Path | None = typer.Option(
        None,
        "--design-space",
        metavar="FILE",
        help="TOML file that lists settings of a recipe and the combinations of them to measure.",
        show_default="the built-in design space, presets/int8-design-space.toml; with --base of post-training "
        "quantization, presets/ptq-design-space.toml",
        rich_help_panel=Panel.VARIANTS,
    ),
    base: str | None = typer.Option(
        None,
        "--base",
        metavar="VARIANT",
        help="Change one setting at a time of this variant: gptq:w4g128, awq+gptq:w3g128, ptq:FILE.toml, int8:sq-ph "
        "and so on.",
        show_default="the combinations of the design space are measured",
        rich_help_panel=Panel.VARIANTS,
    ),
    axes: str | None = typer.Option(
        None,
        "--axes",
        metavar="NAMES",
        help="With --base: the settings to change, such as group,order,damp,inputs,calibration,samples.",
        show_default="all axes of the design space that the variant has",
        rich_help_panel=Panel.VARIANTS,
    ),
    perplexity: Path | None = common.perplexity("perplexity and KL divergence"),
    window: int = common.window(512),
    windows: int = typer.Option(
        64,
        "--windows",
        min=2,
        help="Maximum number of windows to read, from the beginning of the text.",
        rich_help_panel=Panel.MEASUREMENTS,
    ),
    calibration: str | None = common.int8_calibration("to calibrate recipes"),
    samples: int | None = common.samples("as many as the text has: up to 1000 for int8, otherwise up to 128"),
    length: int | None = common.INT8_LENGTH,
    parse_special: bool = common.PARSE_SPECIAL,
    dtype: Dtype = typer.Option(
        Dtype.BFLOAT16,
        "--dtype",
        help="Data type of the layers that are not quantized.",
        rich_help_panel=Panel.VARIANTS,
    ),
    device: str | None = common.device(None, "to compute on", "cuda if available, otherwise cpu"),
    html: Path | None = common.html(", with heat maps,", "a file in the workspace"),
    force: bool = common.FORCE,
    workspace: Path | None = common.WORKSPACE,
    format: Format = common.FORMAT,
) -> int:
    """Measure what each setting of a recipe costs in accuracy.

    Every recipe of a design space is measured: int8 recipes as fake-quant (values are rounded to int8 but multiplied in
    float), methods of post-training quantization with dequantized weights. A table and heat maps show the perplexity
    and the KL divergence of each recipe.

    The result of each recipe is stored as soon as it is measured. If the command is interrupted, run it again to
    resume.
    """
    if html is not None and not html.parent.is_dir():  # checked before the measurements, which take long
        raise InputError(f"{html}: there is no such directory; choose another --html FILE")
    from converters.atomic import exists_already, write_text
    from sweep.cli.run_display import say_what_is_stored
    from sweep.commands import ablate as command  # loads torch and transformers, which --help does not need
    from sweep.report.ablation import render_ablation
    from sweep.report.ablation_html import render_page
    from sweep.report.csv_json import finite
    from sweep.results.progress import RunProgress

    if html is not None and html.exists() and not force:  # what the page will contain is not known yet
        raise InputError(exists_already(html))
    output = Output(format)
    request = command.AblationRequest(
        model=model,
        space=design_space,
        base=base,
        axes=tuple(name.strip() for name in (axes or "").split(",") if name.strip()),
        calibration=calibration,
        samples=samples,
        length=length,
        perplexity=perplexity,
        window=window,
        windows=windows,
        dtype=dtype,
        device=device,
        workspace=workspace,
        parse_special=parse_special,
    )
    plan = command.prepare(request, output.say)
    recipes = {cell.label: plan.recipes.get(cell.key) for cell in plan.cells}
    state = RunProgress.of(plan.cells)
    with share_bar(output) as bar:
        task = bar.add_task("looking for stored results", total=1.0, left=state.seconds_left)

        def show(event: Event) -> None:
            state.update(event)
            name = (event.cell or "").partition("/")[2]
            bar.update(task, completed=state.share, description=name or "looking for stored results")
            if event.event == "started" and event.data["todo"]:
                say_what_is_stored(event, output)
            recipe = recipes.get(event.cell or "")
            if event.event not in ("cell_done", *EVENTS) or recipe is None:
                return
            error = event.data.get("error")
            if output.is_json:
                status = "ok" if error is None else EVENTS[event.event]
                output.line({"event": "point", "recipe": recipe.to_json(), "status": status})
            elif error is not None or not output.shows_progress:
                output.say(f"{name}: {error or '{:.1f} s'.format(event.data['seconds'])}")

        found, page = command.ablate(plan, show)
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
    return exit_code(one.status for one in found.failed)
