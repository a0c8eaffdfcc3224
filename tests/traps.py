"""Python files that must not run: each writes its name into a file when it is imported."""

from __future__ import annotations

from pathlib import Path

MODULES = "numpy torch llama_cpp transformers msgspec json sitecustomize usercustomize textual".split()
PACKAGES = ("sweep", "presets", "converters", "images", "int8", "tui", "lm_eval")
_TRAP = 'open({marker!r}, "a").write(__name__ + "\\n")\nraise ImportError("hijacked " + __name__)\n'


def lay_traps(directory: Path) -> None:
    """Write such files into the directory. They write into ../imported."""
    trap = _TRAP.format(marker=str(directory.parent / "imported"))
    for name in MODULES:
        (directory / f"{name}.py").write_text(trap)
    for name in PACKAGES:
        (directory / name).mkdir()
        (directory / name / "__init__.py").write_text(trap)


def imported(directory: Path) -> str:
    """The names of those that were imported, each on a line."""
    marker = directory.parent / "imported"
    return marker.read_text() if marker.exists() else ""
