"""What notebooks and scripts use: the records of a workspace and the answers of `sweep fit` as data frames.

A frame is pandas' or polars', whichever is installed; neither is needed otherwise. Its columns have the names of the
JSON fields, with dots: `divergence.kld_mean`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from converters.errors import InputError, MissingRuntime
from sweep.workspace import Workspace, default_root

Frame = Literal["pandas", "polars", "rows"]
"""The kind of a table: a data frame of pandas or polars, or a list of dictionaries ("rows")."""


@dataclass(frozen=True)
class StoredRuns:
    """The runs of a workspace."""

    workspace: Workspace

    def runs(self, frame: Frame | None = None) -> Any:
        """A row for each run, the latest first: `run`, `model`, `preset`, `reference`, `created` (UTC), and how many of
        its `jobs` are `done` and `failed`. Runs that this version cannot read are left out."""
        from sweep.results.history import past_runs

        rows = [
            {
                "run": one.plan.run,
                "model": one.plan.model,
                "preset": one.plan.preset,
                "reference": one.plan.reference,
                "created": datetime.fromtimestamp(one.created, UTC),
                "jobs": len(one.plan.cells),
                "done": one.done,
                "failed": one.failed,
            }
            for one in past_runs(self.workspace)
        ]
        return _framed(rows, frame)

    def records(self, run: str | None = None, frame: Frame | None = None) -> Any:
        """A row for each variant of a run, with the columns of `sweep report --csv` after `run` and `model`.

        `run` is the id of a run or its beginning; None: the latest run. What was not measured is null. Raises
        InputError if there is no such run, MissingRuntime if the `frame` is not installed.
        """
        from sweep.report.csv_json import flat_rows
        from sweep.results.history import find_run
        from sweep.results.records import records
        from sweep.results.store import Store

        plan = find_run(self.workspace, run)
        with Store(self.workspace.database) as store:
            rows = flat_rows(records(plan, store))
        return _framed([{"run": plan.run, "model": plan.model, **row} for row in rows], frame)


def open_workspace(path: str | Path | None = None) -> StoredRuns:
    """The runs in a workspace's folder; None: the default workspace of `sweep run`. Nothing is written.

    Raises InputError if the folder is no workspace.
    """
    root = (default_root() if path is None else Path(path)).expanduser().absolute()
    space = Workspace(root)
    if not space.database.is_file():
        raise InputError(f"{root}: this is no workspace with runs; `sweep run --workspace {root}` makes one")
    return StoredRuns(space)


def what_fits(
    model: str,
    gpu: str | Sequence[str] = (),
    variants: Sequence[str] = (),
    *,
    ctx: int | None = None,
    kv_type: str = "f16",
    frame: Frame | None = None,
) -> Any:
    """Which variants of a model fit on which GPUs, as `sweep fit` computes: a row for each variant, sizes in bytes.

    Args:
        model: as for `sweep fit`: a name such as "Qwen3-8B", a checkpoint, or a GGUF file.
        gpu: the GPUs that the variants have to fit on ("RTX 4090", "24GiB"); empty: those of this machine.
        variants: names of variants; empty: all that are usual.
        ctx: the context per sequence, in tokens; None: 8192, or the model's longest if that is shorter.
        kv_type: the type of the KV cache, or those of K and V ("f16,q8_0").

    Raises InputError for an unknown model, GPU or variant, MissingRuntime if the `frame` is not installed.
    """
    from sweep.commands.fit import fit
    from sweep.fit.fit_report import FitOptions, to_json
    from sweep.fit.hardware import parse_devices
    from sweep.fit.local_devices import local_devices
    from sweep.kv_cache import KVCache
    from sweep.report.csv_json import flat

    cache = KVCache.parse(kv_type)
    names = [gpu] if isinstance(gpu, str) else list(gpu)
    devices = parse_devices(names) if names else local_devices()
    options = FitOptions(context=ctx or 0, kv_type_k=cache.k, kv_type_v=cache.v)
    report = to_json(fit(model, tuple(variants), devices, options))
    about = {name: report[name] for name in ("model", "context", "kv_type")}
    return _framed([{**about, **dict(flat(row))} for row in report["rows"]], frame)


def _framed(rows: Sequence[Mapping[str, Any]], frame: Frame | None) -> Any:
    """The rows as a table of this kind; None: pandas', or polars' if only that is installed."""
    if frame == "rows":
        return [dict(row) for row in rows]
    if frame not in (None, "pandas", "polars"):
        raise InputError(f"frame={frame!r} is not a kind of table; choose 'pandas', 'polars' or 'rows'")
    name = frame or next((one for one in ("pandas", "polars") if find_spec(one) is not None), None)
    if name is None or find_spec(name) is None:
        raise MissingRuntime(
            f"a data frame needs {frame or 'pandas or polars'}, which is not installed: pip install "
            f"{frame or 'pandas'}; or ask for a list of dictionaries with frame='rows'"
        )
    columns = dict.fromkeys(key for row in rows for key in row)
    made = import_module(name)
    table = {column: [row.get(column) for row in rows] for column in columns}
    if name == "polars":
        return made.DataFrame(table, strict=False, infer_schema_length=None)
    return made.DataFrame(table)
