"""A dark and a light theme with the palette of the HTML report, and the colours of text in tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rich.style import Style
from rich.text import Span, Text
from textual.app import App
from textual.color import BLACK, WHITE, Color
from textual.theme import Theme

DARK = Theme(
    name="sweep-dark",
    primary="#7db4f0",
    secondary="#a2abb4",
    accent="#7db4f0",
    warning="#e0b060",
    error="#f08b78",
    success="#7fcb92",
    foreground="#e4e6e8",
    background="#15181b",
    surface="#1a1e22",
    panel="#22272c",
    dark=True,
    variables={
        "border": "#3a424a",
        "border-blurred": "#2a2f34",
        "footer-background": "#15181b",
        "footer-key-foreground": "#7db4f0",
        "footer-description-foreground": "#a2abb4",
        "block-cursor-background": "#2b4a6b",
        "block-cursor-foreground": "#ffffff",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#22303d",
        "block-cursor-blurred-foreground": "#e4e6e8",
        "input-selection-background": "#7db4f0 35%",
    },
)
LIGHT = Theme(
    name="sweep-light",
    primary="#1f5fa8",
    secondary="#5b6570",
    accent="#1f5fa8",
    warning="#8a5a00",
    error="#a8321f",
    success="#24703a",
    foreground="#1d2125",
    background="#fcfcfa",
    surface="#f6f6f2",
    panel="#ecede8",
    dark=False,
    variables={
        "border": "#b9bdb8",
        "border-blurred": "#d6d8d2",
        "footer-background": "#fcfcfa",
        "footer-key-foreground": "#1f5fa8",
        "footer-description-foreground": "#5b6570",
        "block-cursor-background": "#cfe0f3",
        "block-cursor-foreground": "#1d2125",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#e6edf5",
        "block-cursor-blurred-foreground": "#1d2125",
    },
)


CONTRAST = 4.5  # what WCAG 2 demands of text (AA)
_PALETTE = ("foreground", "accent", "success", "warning", "error")
_EVERYWHERE = (*_PALETTE, "primary", "secondary", "text-muted", "text-disabled")  # on any background of the theme
_PAIRS = (  # text and the one background that it is used on
    ("footer-key-foreground", "footer-background"),
    ("footer-description-foreground", "footer-background"),
    ("block-cursor-foreground", "block-cursor-background"),
    ("block-cursor-blurred-foreground", "block-cursor-blurred-background"),
)


@dataclass(frozen=True)
class Palette:
    """Rich styles by meaning. Colour is never the only mark: coloured text also has a sign or a word."""

    ink: Style
    soft: Style
    faint: Style
    accent: Style
    good: Style
    warn: Style
    bad: Style

    def text(self, text: Text) -> Text:
        """A text from `sweep.report` with terminal colours replaced by those of the theme."""
        found = {"red": self.bad, "green": self.good, "bold green": self.good, "cyan": self.accent, "yellow": self.warn}
        found |= {"dim": self.faint, "bold yellow": self.warn}
        copy = Text(text.plain, end=text.end)
        if text.style:
            copy.stylize(found.get(str(text.style), text.style))
        copy.spans += [Span(span.start, span.end, found.get(str(span.style), span.style)) for span in text.spans]
        return copy


def palette(app: App[None]) -> Palette:
    """The palette of the current theme."""
    values, grounds = app.theme_variables, grounds_of(app.theme_variables)
    return _palette(*(values[name] for name in _PALETTE), values["background"], grounds)


@lru_cache(maxsize=32)
def _palette(
    foreground: str, accent: str, success: str, warning: str, error: str, background: str, grounds: tuple[Color, ...]
) -> Palette:
    def style(value: str, strength: float = 1.0) -> Style:
        colour = Color.parse(value)
        if colour.ansi is not None:
            return Style(color=colour.rich_color, dim=strength < 1.0)
        return Style(color=readable(Color.parse(background).blend(colour, strength), grounds).rich_color)

    return Palette(
        ink=style(foreground),
        soft=style(foreground, 0.68),
        faint=style(foreground, 0.42),
        accent=style(accent),
        good=style(success),
        warn=style(warning),
        bad=style(error),
    )


def contrast(one: Color, other: Color) -> float:
    """The contrast ratio of WCAG 2: 1 for equal colours, 21 for black on white."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def readable(colour: Color, grounds: Sequence[Color]) -> Color:
    """The colour, moved towards white or black until it can be read on all of these backgrounds."""
    end = max((WHITE, BLACK), key=lambda one: min(contrast(one, ground) for ground in grounds))
    mixed = (colour.blend(end, step / 20) for step in range(21))
    return next((one for one in mixed if min(contrast(one, ground) for ground in grounds) >= CONTRAST), end)


def with_contrast(values: Mapping[str, str]) -> dict[str, str]:
    """The variables of a theme, with colours of text that can be read on every background that they are used on.

    Colours of the terminal itself (ansi) are unknown, and stay.
    """
    everywhere = grounds_of(values)
    if not everywhere:
        return dict(values)
    grounds = dict.fromkeys(_EVERYWHERE, everywhere)
    grounds |= {name: (everywhere[0] + Color.parse(values[own]),) for name, own in _PAIRS}
    return {**values, **{name: readable(_solid(values[name], own[0]), own).hex for name, own in grounds.items()}}


def grounds_of(values: Mapping[str, str]) -> tuple[Color, ...]:
    """The backgrounds of a theme, and that of the head of a focused table; empty if they are those of the terminal."""
    found = [Color.parse(values[name]) for name in ("background", "surface", "panel")]
    if any(colour.ansi is not None for colour in found):
        return ()
    return (*found, found[0].blend(Color.parse(values["foreground"]), 0.05))


def _solid(value: str, ground: Color) -> Color:
    """The colour as it is seen on this background; `auto N%` is black or white, whichever differs more."""
    if value.startswith("auto"):
        return ground + ground.get_contrast_text(float(value.split()[-1].rstrip("%")) / 100)
    return ground + Color.parse(value)


def _luminance(colour: Color) -> float:
    """The relative luminance of WCAG 2."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour.normalized]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
