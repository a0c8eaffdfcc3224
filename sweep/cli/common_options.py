"""The arguments and options that more than one command has, each defined once; those of one command are in its module.

A constant means the same in every command. A function makes an option whose default or purpose differs.
"""

from __future__ import annotations

from typing import Any

import typer

import presets
from sweep.cli.help import Panel
from sweep.cli.output import Format
from sweep.defaults import DEFAULT_CONTEXT, KV_TYPES

BUILT_IN = f"a built-in model ({', '.join(presets.builtin_models())})"
CHECKPOINT = "a checkpoint directory"
GGUF_FILE = "a .gguf file"
GGUF_FILE_OR_HUB_FILE = "a .gguf file (also on the Hub: hub:OWNER/REPO/FILE.gguf)"
HUB_ID = "a Hugging Face model id (Qwen/Qwen3-4B)"
GGUF_REPOSITORY = "a repository or directory of GGUF files that somebody published (unsloth/Qwen3-8B-GGUF)"

OWN_TEXT = "a built-in model's own text"


def model(*forms: str) -> Any:
    """The argument MODEL of a command that accepts these forms of a model."""
    help = f"The model: {', '.join(forms[:-1])} or {forms[-1]}."
    return typer.Argument("micro", metavar="MODEL", help=help, rich_help_panel=Panel.MODEL)


def models(*forms: str) -> Any:
    """The argument MODEL... of a command that accepts these forms of a model, and several models."""
    help = f"The model: {', '.join(forms[:-1])} or {forms[-1]}. Several models are compared with each other."
    return typer.Argument(["micro"], metavar="MODEL...", help=help, show_default="micro", rich_help_panel=Panel.MODEL)


def memory(show_default: str) -> Any:
    """--memory of a command that compares models."""
    return typer.Option(
        None,
        "--memory",
        metavar="SIZE",
        help="For several models: the memory to choose a model and a quant for, such as 24GiB.",
        show_default=show_default,
        rich_help_panel=Panel.OUTPUT,
    )


def run_argument(default: Any, metavar: str, help: str, *, show_default: bool | str = True) -> Any:
    """An argument that names a stored run."""
    return typer.Argument(default, metavar=metavar, help=help, show_default=show_default, rich_help_panel=Panel.RUNS)


def calibration(purpose: str, named_texts: str, show_default: str) -> Any:
    """--calibration of a command that reads the text for this purpose, and that knows these texts by name."""
    return typer.Option(
        None,
        "--calibration",
        metavar="FILE|NAME",
        help=f"Text that the model reads {purpose}: a file, a .jsonl file of conversations, which the model's chat "
        f"template writes{named_texts}, or the name of a built-in model for that model's own text. The torch variants "
        "of a model that takes images also take conversations with images, a .parquet file of training items with "
        "images, or task:NAME, the training split in --task-data. A speech model takes a directory of recordings with "
        "transcripts.",
        show_default=show_default,
        rich_help_panel=Panel.VARIANTS,
    )


def int8_calibration(purpose: str = "to calibrate int8 recipes") -> Any:
    """--calibration of a command that only makes models in torch."""
    return calibration(
        purpose,
        ", wikitext-2 (its training split)",
        f"{OWN_TEXT}, otherwise wikitext-2",
    )


LANGUAGE = typer.Option(
    "en",
    "--language",
    metavar="CODE",
    help="Language of the recordings that a speech model reads, by its code, such as en or de.",
    rich_help_panel=Panel.VARIANTS,
)
TOLERANCE = typer.Option(
    None,
    "--tolerance",
    metavar="POINTS|SHARE%",
    help="The loss on tasks that you accept: 2 means two percentage points, 5% means five percent of the reference's "
    "score above chance. The advice says whether the items rule out a larger loss.",
    show_default="2",
    rich_help_panel=Panel.OUTPUT,
)
MIN_TPS = typer.Option(
    None,
    "--min-tps",
    metavar="RATE",
    help="The advice names the best variant that generates at least so many tokens per second.",
    show_default="30 if possible, otherwise slower",
    rich_help_panel=Panel.TARGET,
)
MAX_KLD = typer.Option(
    None,
    "--max-kld",
    metavar="NATS",
    help="The advice names the best variant with at most this KL divergence, in nats per token: 0.02 is a good 4-bit "
    "quant.",
    show_default="as low as possible, at most 0.3",
    rich_help_panel=Panel.TARGET,
)
MIN_RECOVERY = typer.Option(
    None,
    "--min-recovery",
    metavar="PERCENT",
    help="The advice names the best variant that keeps at least this percentage of the reference's task score above "
    "chance, as measured.",
    show_default="no limit",
    rich_help_panel=Panel.TARGET,
)
PARSE_SPECIAL = typer.Option(
    False,
    "--parse-special",
    help="Read <|im_start|> and other special tokens in the texts as special tokens, as llama-imatrix --parse-special "
    "does. In a .jsonl file of conversations they always are.",
    show_default="they are read as plain text",
    rich_help_panel=Panel.MEASUREMENTS,
)


def samples(show_default: str) -> Any:
    """--samples of a command whose methods take this many by default."""
    return typer.Option(
        None,
        "--samples",
        min=1,
        help="Number of samples to take from the calibration text.",
        show_default=show_default,
        rich_help_panel=Panel.VARIANTS,
    )


def sample_length(show_default: str) -> Any:
    """--length of a command whose methods take samples of this length by default."""
    return typer.Option(
        None,
        "--length",
        min=8,
        help="Length of a calibration sample, in tokens.",
        show_default=show_default,
        rich_help_panel=Panel.VARIANTS,
    )


INT8_SAMPLES = samples("1000, or as many as the text has")
INT8_LENGTH = sample_length("256")
REQUANTIZE = typer.Option(
    False,
    "--requantize",
    help="Accept a GGUF file that is already quantized. The quality losses add up.",
    show_default="such a file is rejected",
    rich_help_panel=Panel.MODEL,
)
IMATRIX = typer.Option(
    None,
    "--imatrix",
    metavar="FILE|auto",
    help="Importance matrix to quantize with: a GGUF file written by llama-imatrix, or auto, which computes the matrix "
    "from the text of --calibration.",
    show_default="no importance matrix",
    rich_help_panel=Panel.VARIANTS,
)


def perplexity(purpose: str) -> Any:
    """--perplexity of a command that computes this on the text."""
    return typer.Option(
        None,
        "--perplexity",
        metavar="FILE|-",
        help=f"Text file to compute {purpose} on; - reads standard input.",
        show_default=f"{OWN_TEXT}, otherwise the test split of WikiText-2",
        rich_help_panel=Panel.MEASUREMENTS,
    )


def perplexities(purpose: str) -> Any:
    """--perplexity of a command that computes this on one text or several."""
    return typer.Option(
        None,
        "--perplexity",
        metavar="FILE|NAME|-",
        help=f"Text to compute {purpose} on: a text file, - for standard input, a .jsonl file of conversations, which "
        "the model's chat template writes, wikitext-2, or the name of a built-in model for that model's text. Several, "
        "with commas or by repeating the option, get columns of their own; the first one is the headline.",
        show_default=f"{OWN_TEXT}, otherwise the test split of WikiText-2",
        rich_help_panel=Panel.MEASUREMENTS,
    )


def window(default: int | None, show_default: bool | str = True) -> Any:
    """--window; a default of None leaves the choice to the request."""
    return typer.Option(
        default,
        "--window",
        min=4,
        help="Length of the windows that the perplexity text is cut into, in tokens.",
        show_default=show_default,
        rich_help_panel=Panel.MEASUREMENTS,
    )


def context(minimum: int, show_default: str = f"{DEFAULT_CONTEXT}, or the model's maximum if that is smaller") -> Any:
    """--ctx with the smallest context that the command accepts."""
    return typer.Option(
        None,
        "--ctx",
        min=minimum,
        help="Context length that the memory figures are for, in tokens per sequence.",
        show_default=show_default,
        rich_help_panel=Panel.MEMORY,
    )


def kv_type(purpose: str, show_default: str, more: str = "") -> Any:
    """--kv-type of a command that uses the cache for this purpose; `more` is said of it."""
    return typer.Option(
        None,
        "--kv-type",
        metavar="K[,V]",
        help=f"{purpose}: {', '.join(KV_TYPES[:-1])} or {KV_TYPES[-1]}; or one for K and one for V: f16,q8_0.{more}",
        show_default=show_default,
        rich_help_panel=Panel.MEMORY,
    )


def gpu(purpose: str, show_default: str) -> Any:
    """--gpu of a command that uses the GPUs for this purpose."""
    return typer.Option(
        None,
        "--gpu",
        metavar="GPU",
        help=f'{purpose}: a name from `sweep gpus` ("RTX 4090", "2xRTX 6000 Ada") or a memory size (24GiB; '
        "24GB means the same). Repeat the option for several GPUs.",
        show_default=show_default,
        rich_help_panel=Panel.MEMORY,
    )


def device(default: str | None, purpose: str, show_default: bool | str = True) -> Any:
    """--device of a command that computes in torch."""
    return typer.Option(
        default,
        "--device",
        metavar="DEVICE",
        help=f"The torch device {purpose}: cpu, cuda, or cuda:1 for the second GPU.",
        show_default=show_default,
        rich_help_panel=Panel.EXECUTION,
    )


DRY_RUN = typer.Option(
    False,
    "--dry-run",
    help="Print the plan with file sizes (~: the header is estimated), then stop. Nothing is made or measured.",
    rich_help_panel=Panel.EXECUTION,
)


def html(content: str, show_default: bool | str = True) -> Any:
    """--html of a command whose report has this content."""
    return typer.Option(
        None,
        "--html",
        metavar="FILE",
        help=f"Write the HTML report{content} to this file.",
        show_default=show_default,
        rich_help_panel=Panel.OUTPUT,
    )


EXPORT = typer.Option(
    None,
    "--export",
    metavar="KIND[:VARIANT]",
    help="Write a file that runs the recommended variant, or this VARIANT, to the current directory: llama-server (a "
    "script), ollama (a Modelfile) or lmstudio (settings of one model).",
    show_default="no file",
    rich_help_panel=Panel.OUTPUT,
)
FORCE = typer.Option(
    False,
    "--force",
    help="Replace files that exist and have other content.",
    show_default="such a file is left alone, and the command ends",
    rich_help_panel=Panel.OUTPUT,
)
WORKSPACE = typer.Option(
    None,
    "--workspace",
    metavar="DIR",
    help="Folder that holds runs, results and the files that were made.",
    show_default="$BITSWEEP_WORKSPACE, otherwise the user's data folder",
    rich_help_panel=Panel.OUTPUT,
)
FORMAT = typer.Option(
    Format.AUTO,
    "--format",
    help="How to print: human prints tables, json prints one JSON object per line, quiet prints only the data. "
    "auto is the same as human.",
    rich_help_panel=Panel.OUTPUT,
)
