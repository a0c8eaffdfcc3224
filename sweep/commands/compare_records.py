"""`sweep compare` with a file of records: finds the two sides, and the variants that both have."""

from __future__ import annotations

from pathlib import Path

from converters.errors import InputError
from sweep.analysis.record_differences import RecordComparison, compare_records
from sweep.analysis.record_files import RecordSet, is_record_file, of_records, read_record_file
from sweep.results.history import find_variant
from sweep.results.records import records
from sweep.results.store import Store
from sweep.workspace import Workspace


def compare_files(workspace: Workspace, first: str, second: str, variant: str | None) -> RecordComparison:
    """B (`second`) minus A (`first`), of which at least one is a file of records. `variant` names one variant of both.
    Raises InputError."""
    (a, variant_a), (b, variant_b) = (_side(workspace, one) for one in (first, second))
    named = {name for name in (variant, variant_a, variant_b) if name is not None}
    if variant is not None and len(named) > 1:
        raise InputError("name the variant once: with --variant or as RUN:VARIANT")
    own, other = variant_a or variant or variant_b, variant_b or variant or variant_a
    if own is not None and other is not None:
        for side, name in ((a, own), (b, other)):
            if name not in side.records:
                raise InputError(f"{side.name} has no variant {name!r}; it has {', '.join(side.records)}")
        return compare_records(a, b, [(own, other)])
    shared = [name for name in a.records if name in b.records]
    if not shared:
        raise InputError(
            f"{a.name} ({', '.join(a.records)}) and {b.name} ({', '.join(b.records)}) have no variant in common"
        )
    return compare_records(a, b, [(name, name) for name in shared])


def _side(workspace: Workspace, text: str) -> tuple[RecordSet, str | None]:
    if is_record_file(text):
        return read_record_file(Path(text)), None
    plan, variant = find_variant(workspace, text)
    with Store(workspace.database) as store:
        return of_records(plan.run, records(plan, store)), variant
