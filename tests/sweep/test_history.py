"""Earlier runs: found by name, and refused where another version kept their results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored_runs import Stored, items

from converters.errors import InputError
from sweep.results.history import find_run, past_runs
from sweep.results.plan import Plan
from sweep.results.plan import procedures as procedures_of_this_version
from sweep.results.store import Store
from sweep.workspace import Workspace

PROCEDURES = procedures_of_this_version()
RUN = Stored("alpha-q-111111", {"t": {"BF16": items(np.ones(4)), "Q4": items(np.zeros(4))}})


@pytest.mark.parametrize("procedures", [{}, PROCEDURES | {"task": PROCEDURES["task"] - 1}])
def test_a_run_of_another_version_is_listed_and_not_read(tmp_path: Path, procedures: dict[str, int]) -> None:
    space = Workspace(tmp_path)
    plan = RUN.put(space)
    assert find_run(space, "alpha") == plan
    older = replace(plan, run="beta-q-222222", procedures=procedures).to_json()
    older["settings"]["of_another_version"] = 1
    with Store(space.database) as store:
        store.add_run("beta-q-222222", older)
    assert {run.plan.run for run in past_runs(space)} == {"alpha-q-111111", "beta-q-222222"}
    with pytest.raises(InputError, match=r"beta-q-222222: another version measured it .*; run it again"):
        find_run(space, "beta")
    assert find_run(space, "alpha") == plan


def test_a_plan_is_of_this_version_where_what_it_measures_is_kept_the_same(tmp_path: Path) -> None:
    plan = RUN.put(Workspace(tmp_path))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert replace(plan, procedures={"task": PROCEDURES["task"]}).is_current
    assert not replace(plan, procedures={"text": PROCEDURES["text"]}).is_current
