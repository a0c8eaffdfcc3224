"""The sweep: plans, runs, measures, stores and reports the variants of a model.

For notebooks: `sweep.open_workspace(FOLDER).records()` and `sweep.what_fits(MODEL, gpu=...)` (docs/notebooks.md).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweep.api import StoredRuns, open_workspace, what_fits

__version__ = "0.1.0"
__all__ = ["StoredRuns", "__version__", "open_workspace", "what_fits"]


def __getattr__(name: str) -> Any:
    """The functions for notebooks, imported when they are first used: `import sweep` loads nothing else."""
    if name in __all__:
        from sweep import api

        return getattr(api, name)
    raise AttributeError(f"module 'sweep' has no attribute {name!r}")
