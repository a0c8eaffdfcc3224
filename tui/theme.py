"""A dark and a light theme with the palette of the HTML report, and the colours of text in tables."""

from __future__ import annotations

from dataclasses import dataclass

from rich.style import Style
from rich.text import Span, Text
from textual.app import App
from textual.color import Color
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
    values = app.theme_variables

    def style(name: str, strength: float = 1.0) -> Style:
        colour = Color.parse(values[name])
        if strength < 1.0 and colour.ansi is None:
            colour = Color.parse(values["background"]).blend(colour, strength)
        return Style(color=colour.rich_color, dim=strength < 1.0 and colour.ansi is not None)

    return Palette(
        ink=style("foreground"),
        soft=style("foreground", 0.68),
        faint=style("foreground", 0.42),
        accent=style("accent"),
        good=style("success"),
        warn=style("warning"),
        bad=style("error"),
    )
