"""The order in which --search measures the variants of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from converters.errors import InputError
from sweep.jobs.base import Host
from sweep.jobs.cell import SweepInputs
from sweep.methods.base import Variant
from sweep.methods.registry import predicted_sizes
from sweep.planning.request import Request
from sweep.results.plan import Skipped


def search_order(
    request: Request, variants: Sequence[Variant], inputs: SweepInputs, imatrix: bool, reference: str, host: Host
) -> dict[str, Skipped]:
    """The variants that --search measures one after another, from the smallest to the largest, as a plan would have
    them that skips them; none without that option. Raises InputError if the size of one is not known before it is made.
    """
    if request.search is None:
        return {}
    searched = [one for one in variants if one.name != reference and one.name != one.baseline]
    predicted = predicted_sizes(searched, inputs.origin, inputs.settings, imatrix, host.run_job)
    sizes = {}
    for one in searched:
        size = predicted.get(one.name)
        if size is None and not one.file_bytes:
            raise InputError(f"--search: the size of {one.name} is not known before it is made; leave --search out")
        sizes[one.name] = (
            Skipped("", one.file_bytes)
            if size is None
            else Skipped("", size.file_bytes, size.bits_per_weight, size.memory_bytes)
        )
    return dict(sorted(sizes.items(), key=lambda pair: pair[1].file_bytes or 0))
