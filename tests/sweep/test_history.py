"""Runs of a workspace: found by name, and rejected if this version cannot use their results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored_runs import Stored, items

from converters.errors import InputError
from sweep.analysis.measured import measurements
from sweep.results.estimate import predicted_seconds
from sweep.results.history import UnreadableRun, all_runs, find_run, past_runs
from sweep.results.plan import Plan
from sweep.results.plan import procedures as procedures_of_this_version
from sweep.results.store import Store
from sweep.workspace import Workspace

PROCEDURES = procedures_of_this_version()
RUN = Stored("alpha-q-111111", {"t": {"BF16": items(np.ones(4)), "Q4": items(np.zeros(4))}})


@pytest.mark.parametrize("procedures", [{}, PROCEDURES | {"task": PROCEDURES["task"] - 1}])
def test_a_run_of_another_version_is_listed_but_cannot_be_opened(tmp_path: Path, procedures: dict[str, int]) -> None:
    space = Workspace(tmp_path)
    plan = RUN.put(space)
    assert find_run(space, "alpha") == plan
    older = replace(plan, run="beta-q-222222", procedures=procedures).to_json()
    older["settings"]["of_another_version"] = 1
    with Store(space.database) as store:
        store.add_run("beta-q-222222", older)
    assert {run.plan.run for run in past_runs(space)} == {"alpha-q-111111", "beta-q-222222"}
    with pytest.raises(InputError, match=r"beta-q-222222: another version of bitsweep measured .*; run it again"):
        find_run(space, "beta")
    assert find_run(space, "alpha") == plan


def test_a_plan_is_current_if_the_procedures_of_its_jobs_are(tmp_path: Path) -> None:
    plan = RUN.put(Workspace(tmp_path))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert replace(plan, procedures={"task": PROCEDURES["task"]}).is_current
    assert not replace(plan, procedures={"text": PROCEDURES["text"]}).is_current


def test_a_run_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    """Its jobs are of an extension that is not loaded, or its plan is damaged."""
    space = Workspace(tmp_path)
    plan = RUN.put(space)
    extended = replace(plan, run="beta-q-222222").to_json()
    extended["cells"][0]["job"]["kind"] = "entropy"
    with Store(space.database) as store:
        store.add_run("beta-q-222222", extended)
        store.add_run("gamma-q-333333", {"model": plan.model})
        nameless = plan.to_json()
        del nameless["about"]["engine"]
        store.add_run("delta-q-444444", nameless)
        store.add_run("epsilon-q-555555", "not an object")  # type: ignore[arg-type]
        assert predicted_seconds(plan, store) != {}
    assert [run.plan for run in past_runs(space)] == [plan]
    epsilon, delta, gamma, beta, _ = all_runs(space)
    assert isinstance(delta, UnreadableRun)
    assert isinstance(epsilon, UnreadableRun)
    assert measurements(space, plan.model).klds == {}
    assert isinstance(beta, UnreadableRun)
    assert "no kind of job 'entropy'; name the extension that adds it in BITSWEEP_EXTENSIONS" in beta.message
    assert isinstance(gamma, UnreadableRun)
    assert gamma.message.startswith("run gamma-q-333333 cannot be read: its plan is damaged")
    assert find_run(space, "alpha") == plan
    with pytest.raises(InputError, match="run beta-q-222222 cannot be read: there is no kind of job 'entropy'"):
        find_run(space, "beta")
    with pytest.raises(InputError, match="run epsilon-q-555555 cannot be read"):
        find_run(space, None)
