"""lm-eval's `simple_evaluate` for a task that is loaded: answered, or stopped at its requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweep.measure.lm_eval_tasks import LoadedTask
from sweep.measure.task_options import TaskOptions

REQUEST_KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until")  # the methods of an lm that answer
BOOTSTRAP_ITERATIONS = 1000  # for metrics whose error has no closed form; 0 turns off all standard errors of lm-eval


def evaluate(
    lm: Any, loaded: LoadedTask, options: TaskOptions, limit: float | None, sub_tasks: Sequence[Any] | None = None
) -> dict[str, Any]:
    """What lm-eval gives for the task, or for these of its sub-tasks, when `lm` answers its requests. To be called
    inside `quiet`."""
    from lm_eval import simple_evaluate

    found: dict[str, Any] = simple_evaluate(
        model=lm,
        tasks=[loaded.root] if sub_tasks is None else list(sub_tasks),
        num_fewshot=options.num_fewshot,
        limit=limit,
        bootstrap_iters=BOOTSTRAP_ITERATIONS,
        apply_chat_template=options.chat_template,
        confirm_run_unsafe_code=options.allow_code,
        task_manager=loaded.manager,
        torch_random_seed=None,  # no task uses torch's random numbers; seeding would load torch (1.6 s)
    )
    return found


class _Asked(Exception):
    """The requests, before any is answered."""

    def __init__(self, requests: Sequence[Any]) -> None:
        super().__init__()
        self.requests = requests


def requests_of(lm: Any, loaded: LoadedTask, options: TaskOptions, limit: float | None) -> Sequence[Any]:
    """The requests of the task, of its first kind if it has several. To be called inside `quiet`.

    `lm` builds the prompts, and answers nothing. Afterwards, the tasks have all of their requests (`instances`).
    """

    def stop(requests: Sequence[Any]) -> None:
        raise _Asked(requests)

    for kind in REQUEST_KINDS:
        setattr(lm, kind, stop)
    try:
        evaluate(lm, loaded, options, limit)
    except _Asked as asked:
        return asked.requests
    finally:
        for kind in REQUEST_KINDS:
            delattr(lm, kind)  # the method of its class comes back
    return ()
