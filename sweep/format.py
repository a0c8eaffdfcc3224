"""How figures are written: sizes, errors, signs. All tables, reports and screens use these functions."""

from __future__ import annotations

from collections.abc import Iterable
from math import floor, log10

MISSING = "\N{EN DASH}"
LOSS, GAIN, PARETO, CHOSEN = "▼", "▲", "●", "►"
INDISTINGUISHABLE = "○"  # in the Pareto set (or the second best), but indistinguishable from the one before
IMPLAUSIBLE = "?"  # a figure that quantization does not usually explain
UNSTABLE = "~"  # before a speed that cannot be relied on
NO_DIFFERENCE = "≈"  # no significant difference
MINUS = "\N{MINUS SIGN}"
STATUS_SIGNS = {"failed": "✗", "partial": "!", "pending": "…", "cancelled": "⊗", "skipped": "⊘"}
UNMEASURED = ("failed", "pending", "cancelled", "skipped")


def plain(text: object) -> str:
    """The text as one line of printable characters: names and native messages may contain escapes or newlines."""
    return " ".join(printable(str(text)).split())


def printable(text: str) -> str:
    """The text with a space for each white space and U+FFFD for each character that cannot be printed."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def shorten(text: str, width: int) -> str:
    """The text with its middle left out if it is longer than `width`; the two ends identify a path best."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def signed(value: float, decimals: int) -> str:
    """The value with its sign (a true minus, U+2212). A value that rounds to zero has no sign."""
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def fixed(value: float, decimals: int) -> str:
    """The value with a true minus (U+2212). A value that rounds to zero has no sign."""
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def size(count: int | float | None) -> str:
    """Bytes in binary units with three digits: 3.10 MiB, 11.0 GiB."""
    if count is None:
        return MISSING
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 999.5 or unit == "TiB":
            break
        value /= 1024.0
    decimals = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f} {unit}"


def rate(value: float | None) -> str:
    """Tokens per second: no decimals from 100 up, otherwise one."""
    return MISSING if value is None else f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}"


def rate_range(low: float | None, high: float | None) -> str | None:
    """The lowest and the highest of several speeds: 97–180; None if they are not known."""
    return None if low is None or high is None else f"{rate(low)}\N{EN DASH}{rate(high)}"


def duration(seconds: float) -> str:
    """Seconds as 12 s, 3:05 min or 2:00:00 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02} h" if hours else f"{minutes}:{whole % 60:02} min"


def small(value: float) -> str:
    """A divergence in a sentence, with two significant digits; in exponent form only below 1e-6."""
    return f"{value:.1e}" if 0.0 < abs(value) < 1e-6 else fixed(value, decimals_for([value]))


def p_relation(p_value: float) -> str:
    """A p value with a relation sign, for a sentence: "= 0.017", "< 0.0001"."""
    return "< 0.0001" if p_value < 1e-4 else f"= {p_value:.2g}"


def p_value(p_value: float) -> str:
    """A p value for a table column: 0.017, <0.0001."""
    return "<0.0001" if p_value < 1e-4 else f"{p_value:.{4 if p_value < 0.0095 else 3 if p_value < 0.095 else 2}f}"


def interval(low: float, high: float, decimals: int, scale: float = 1.0) -> str:
    """ "−8.7 to −4.6": both ends multiplied by `scale`."""
    return f"{signed(low * scale, decimals)} to {signed(high * scale, decimals)}"


def decimals_for(values: Iterable[float], figures: int = 2, most: int = 6, least: int = 2) -> int:
    """Decimals for a whole column, so that its smallest non-zero value has `figures` significant digits.

    The result is between `least` and `most`.
    """
    sizes = [abs(value) for value in values if value]
    return least if not sizes else min(most, max(least, figures - 1 - floor(log10(min(sizes)))))


def decimals_with_errors(values: Iterable[float], errors: Iterable[float], least: int = 2) -> int:
    """Decimals for a column of values and their errors, so that no non-zero error is printed as 0."""
    return max(decimals_for(values, least=least), decimals_for(errors, figures=1, least=least))
