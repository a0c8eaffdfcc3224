"""One keymap: every key that a screen, a window or a widget binds has one meaning, and the documentation names it."""

from __future__ import annotations

import pkgutil
import re
from collections import Counter
from importlib import import_module

from driving import ROOT
from textual.binding import Binding, BindingsMap
from textual.dom import DOMNode

import tui
from tui.keymap import KEYMAP, key_of
from tui.screens.fit import FitScreen
from tui.screens.plan import PlanScreen
from tui.screens.results import ResultsScreen
from tui.screens.run import RunScreen
from tui.widgets.filter import FILTER_KEYS


def owners() -> dict[str, list[Binding]]:
    """The bindings of every class of the screen, one per key, by the name of the class."""
    for module in pkgutil.walk_packages(tui.__path__, "tui."):
        import_module(module.name)
    found: list[type[DOMNode]] = [DOMNode]
    for kind in found:
        found += kind.__subclasses__()
    ours = {kind.__name__: kind for kind in found if kind.__module__.startswith("tui.")}
    return {
        name: [binding for keys in BindingsMap(kind.BINDINGS).key_to_bindings.values() for binding in keys]
        for name, kind in ours.items()
        if "BINDINGS" in vars(kind)
    }


def test_every_key_has_one_meaning_on_all_screens() -> None:
    used = owners()
    assert {"SweepApp", "FitScreen", "PlanScreen", "RunScreen", "ResultsScreen", "Window", "Table"} <= set(used)
    meanings: dict[str, set[str]] = {}
    for owner, bindings in used.items():
        for binding in bindings:
            assert binding.id in KEYMAP, f"{owner} binds {binding.key}, which is not from the keymap"
            assert binding.key in BindingsMap([(KEYMAP[binding.id].keys, "x")]).key_to_bindings, (owner, binding)
            meanings.setdefault(binding.key, set()).add(binding.id)
        twice = [key for key, count in Counter(binding.key for binding in bindings).items() if count > 1]
        assert not twice, f"{owner} binds {twice} twice"
    several = {key: names for key, names in meanings.items() if len(names) > 1}
    assert not several
    assert not set(KEYMAP) - {name for names in meanings.values() for name in names}, "in the keymap, but not bound"


def test_every_key_of_the_keymap_occurs_once_and_every_meaning_is_another() -> None:
    keys = Counter(key for entry in KEYMAP.values() for key in entry.keys.split(","))
    assert [key for key, count in keys.items() if count > 1] == []
    assert len({entry.meaning for entry in KEYMAP.values()}) == len(KEYMAP)


def test_the_documentation_lists_the_keys_of_every_screen() -> None:
    words = (ROOT / "docs/screen.md").read_text()
    common = {binding.id for binding in FILTER_KEYS}
    for title, screen in (("Fit", FitScreen), ("Plan", PlanScreen), ("Run", RunScreen), ("Results", ResultsScreen)):
        section = words.split(f"\n**{title}**\n")[1].split("\n**")[0].split("\n## ")[0]
        rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
        named = [key for row in rows for key in re.findall(r"`([^`]+)`", row)]
        bound = [key_of(str(b.id)) for b in screen.BINDINGS if isinstance(b, Binding) and b.id not in common]
        assert sorted(named) == sorted(bound), title
