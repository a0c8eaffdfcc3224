"""The signs of each screen and the words on it, for the help window."""

from __future__ import annotations

from sweep import format as fmt
from sweep.fit.fit_report import Verdict
from sweep.report.fit import UNCOUNTED
from tui.widgets.fit_table import SIGNS as VERDICTS
from tui.widgets.job_table import SIGNS as STATES
from tui.widgets.plot import MARK_CHOSEN, MARK_OFF

Lines = tuple[tuple[str, str], ...]

_EVERYWHERE: Lines = (
    ("‹ 2  3 more ›", "columns that are not shown at the left and at the right: h and l, or the arrows"),
    (f"{fmt.MISSING}", "no figure"),
    ("›", "in the first line: the model, and what is highlighted of it"),
    ("…", "something is left out, or not known yet"),
)
_NOT_DONE: Lines = tuple((sign, name) for name, sign in fmt.STATUS_SIGNS.items())

SIGNS: dict[str, Lines] = {
    "fit": (
        (fmt.CHOSEN, "the variant to run"),
        ("+", "in the planned sweep"),
        (VERDICTS[Verdict.FITS], "fits"),
        (VERDICTS[Verdict.PARTLY], "runs with a part in RAM"),
        (VERDICTS[Verdict.DOES_NOT_FIT], "does not fit"),
        (UNCOUNTED, "without speculative decoding: the weights for it are not counted"),
        ("█ ▓ ▚ ▒ ░", "weights, KV cache, recurrent state, compute buffers, output buffer"),
        ("▞ ▄ ╱ ·", "projector, draft, reserve, free memory"),
        ("┊", "the end of the device's memory"),
        ("×", "times"),
        *_EVERYWHERE,
    ),
    "plan": (
        ("✓", "chosen"),
        ("+", "measured because other variants are compared with it"),
        ("✗", "chosen, but skipped because it does not fit the GPU; or an error"),
        ("◂ ▸", "a field whose values space and the arrows go through"),
        *_EVERYWHERE,
    ),
    "run": (
        *((sign, state) for state, sign in STATES.items()),
        ("━ ─", "done and left"),
        ("∥", "paused"),
        ("=", "uses the file of the other variant"),
        ("±", "one standard error"),
        ("×", "times"),
        *_EVERYWHERE,
    ),
    "results": (
        (fmt.CHOSEN, "the recommended variant"),
        (fmt.PARETO, "in the Pareto set"),
        (fmt.INDISTINGUISHABLE, f"in the Pareto set, but indistinguishable from the next smaller {fmt.PARETO}"),
        (fmt.IMPLAUSIBLE, "figures that quantization does not usually explain"),
        ("A B", "marked for a comparison"),
        *_NOT_DONE,
        (f"{fmt.LOSS} {fmt.GAIN}", "a significant loss or gain on a task"),
        (fmt.NO_DIFFERENCE, "indistinguishable from 0"),
        ("±", "one standard error"),
        ("→", "from the smaller to the larger variant"),
        ("↑ ↓", "the column that the table is sorted by"),
        (MARK_CHOSEN, "plot: the recommended variant"),
        (MARK_OFF, "plot: outside the Pareto set"),
        ("[ ]", "plot: the highlighted variant"),
        ("┊", "plot: the memory limit of the GPU"),
        *_EVERYWHERE,
    ),
}

TERMS: dict[str, tuple[str, ...]] = {
    "fit": (
        "variant", "bits per weight (bpw)", "fits", "partly in RAM", "headroom", "reserve", "context", "simulated GPU",
        "KL divergence (KLD)", "draft",
    ),
    "plan": ("variant", "bits per weight (bpw)", "reference", "preset", "imatrix", "job", "perplexity (PPL)"),
    "run": (
        "job", "failed, cancelled, skipped", "perplexity (PPL)", "KL divergence (KLD)", "top-1 %",
        "prompt t/s, decode t/s",
    ),
    "results": (
        "bits per weight (bpw)", "reference", "KL divergence (KLD)", "noise floor", "perplexity (PPL)", "top-1 %",
        "recovery %", "prompt t/s, decode t/s", "standard error (±)", "significant", "indistinguishable", "Pareto set",
    ),
}  # fmt: skip
