"""The keys of the screen: one table, in which every key has one meaning on all screens and in all windows.

A screen binds a key by the name of its meaning, and its label says what the meaning is there: `select` adds a variant
to the sweep on Plan and marks it for a comparison on Results.
"""

from __future__ import annotations

from dataclasses import dataclass

from textual.binding import Binding


@dataclass(frozen=True)
class Key:
    """`keys` are names of Textual, separated by commas; the first one is shown, as `display` if it is given."""

    keys: str
    meaning: str
    display: str = ""


# The letters are those of vi, less, k9s and lazygit where these programs have one for the meaning.
KEYMAP = {
    # moving
    "down": Key("down,j", "Down", "j"),
    "up": Key("up,k", "Up", "k"),
    "left": Key("left,h", "Left", "h"),
    "right": Key("right,l", "Right", "l"),
    "first": Key("home,g", "First row", "g"),
    "last": Key("end,G", "Last row", "G"),
    "page-down": Key("pagedown,ctrl+d", "Page down"),
    "page-up": Key("pageup,ctrl+u", "Page up"),
    # everywhere
    "go-fit": Key("1", "Go to Fit"),
    "go-plan": Key("2", "Go to Plan"),
    "go-run": Key("3", "Go to Run"),
    "go-results": Key("4", "Go to Results"),
    "open": Key("enter", "Open what is highlighted, or accept what is typed"),
    "close": Key("escape", "Close the window, the filter or the form; remove marks", "esc"),
    "quit": Key("q", "Close the window, or quit"),
    "quit-now": Key("ctrl+q", "Quit"),
    "suspend": Key("ctrl+z", "Suspend the screen; fg in the shell comes back"),
    "help": Key("question_mark", "Help for this screen", "?"),
    "filter": Key("slash", "Filter by name", "/"),
    "complete": Key("tab", "Complete a path, or go to the next part"),
    "refresh": Key("r", "Read or compute again"),
    "copy": Key("y", "Copy the command"),
    # rows
    "select": Key("space", "Select the row or the next value"),
    "unselect": Key("u", "Unselect all rows"),
    "types": Key("t", "Tensor types of the variant"),
    "sort": Key("s", "Sort by the next column"),
    "reverse": Key("S", "Reverse the order"),
    "columns": Key("C", "Choose columns"),
    "advised": Key("b", "Go to the variant to run"),
    "compare": Key("c", "Compare the marked variants"),
    "items": Key("i", "Items whose answer changed"),
    "x-axis": Key("X", "Next x axis"),
    "y-axis": Key("Y", "Next y axis"),
    # what is asked
    "model": Key("m", "Choose the model"),
    "gpu": Key("v", "Choose the GPU"),
    "less-context": Key("left_square_bracket", "Less context", "["),
    "more-context": Key("right_square_bracket", "More context", "]"),
    "kv-type": Key("K", "Next type of the KV cache"),
    "ram": Key("M", "Allow or forbid a part in RAM"),
    "fitting": Key("f", "Only what fits"),
    "edit": Key("e", "Edit the fields"),
    "target": Key("T", "Set the target of the advice"),
    "add": Key("a", "Add a file or a recipe"),
    # runs and files
    "run": Key("R", "Run the sweep, or resume it"),
    "pause": Key("p", "Pause the sweep, or resume it"),
    "cancel": Key("x", "Cancel the job"),
    "log": Key("L", "Whole log of the job"),
    "follow": Key("F", "Follow the running job"),
    "load": Key("o", "Load a preset or another run"),
    "write": Key("w", "Write to a file"),
}

_WRITTEN = {
    "down": "↓",
    "up": "↑",
    "left": "←",
    "right": "→",
    "pagedown": "pgdn",
    "pageup": "pgup",
    "escape": "esc",
    "slash": "/",
    "question_mark": "?",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
}


def bind(
    name: str, action: str, label: str = "", *, tooltip: str = "", show: bool = False, display: str = ""
) -> Binding:
    """The key with this meaning, bound to an action. `label` is what the key does here, by default its meaning."""
    key = KEYMAP[name]
    return Binding(
        key.keys,
        action,
        label or key.meaning,
        show=show,
        key_display=display or key_of(name),
        tooltip=tooltip,
        id=name,
    )


def key_of(name: str) -> str:
    """How the key with this meaning is written in messages."""
    return KEYMAP[name].display or KEYMAP[name].keys.partition(",")[0]


def all_keys_of(name: str) -> str:
    """How all keys with this meaning are written, for help."""
    keys = KEYMAP[name].keys.split(",")
    return " ".join(_WRITTEN.get(key, key) for key in keys)
