"""What the screens share: the workspace, the current run, the GPUs, and the planned sweep."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from converters.errors import InputError
from tui.state.draft import Draft
from tui.state.question import ADVICE_FIELDS, FIT_FIELDS, TARGET_FIELDS, Question
from tui.state.remembered import Remembered, remember

if TYPE_CHECKING:
    from sweep.commands.launch import Command, Launch
    from sweep.results.plan import Plan
    from sweep.run_question import RunQuestion
    from sweep.workspace import Workspace


@dataclass(frozen=True)
class Limit:
    """A memory limit for the recommendation: the GPUs and their usable memory less the reserve."""

    name: str
    bytes: int


@dataclass
class Session:
    """`run_id` is the id of the current run or a prefix of it, None until there is a run. `run_error` is the message if
    the store cannot be read.

    `question` is what the Fit screen asks, `draft` what the Plan screen plans. They share the model, the GPUs, the RAM,
    the context, the type of the KV cache and the target: each takes what was changed on the other. `limit` is the
    memory limit for results. `launch` is a sweep that was started and has not yet reported its run. `remembered` is
    what the next session starts with.
    """

    workspace: Workspace
    run_id: str | None = None
    run_error: str = ""
    question: Question = field(default_factory=Question)
    limit: Limit | None = None
    launch: Launch | None = None
    draft: Draft = field(default_factory=Draft)
    remembered: Remembered = field(default_factory=Remembered)
    _can_write: bool = True  # until what is remembered could not be written
    _shared: tuple[str, ...] = ()  # what both screens had when they were last made equal
    _decided: dict[str, set[str]] = field(default_factory=dict)  # by run, see `decide`

    def __post_init__(self) -> None:
        if self.remembered.question is not None:
            self.question = self.remembered.question
        self.ask(self.question)

    # --- Fit and Plan -----------------------------------------------------------------------------------------------

    @property
    def gpus(self) -> tuple[str, ...]:
        """Those of the Fit screen; empty: the GPUs of this machine."""
        return self.question.gpus

    def ask(self, question: Question, context: str | None = None) -> None:
        """Ask this on Fit, and plan for the same model, GPUs, RAM, context and KV cache.

        `context` is the one that is planned if it is not the question's, because the model does not allow that one.
        """
        self.question = question
        planned_context = question.value("ctx") if context is None else context
        typed = {"gpu": question.planned_gpus, "ctx": planned_context, "kv_type": question.value("kv_type")}
        target = {name: question.value(name) for name in TARGET_FIELDS}
        if self._planned() != (question.model, *typed.values(), *target.values()):
            typed |= {name: text for name, text in target.items() if text or self.draft.typed_value(name)}
            self.draft = self.draft.with_model(question.model).with_typed(**typed)
        self._shared = self._planned()

    def take_plan(self) -> None:
        """Ask on Fit about what was changed on Plan since."""
        if self._planned() != self._shared:
            model, gpus, context, kv_type, *target = self._planned()
            question = self.question.with_planned(model, gpus, context, kv_type)
            self.ask(question.with_typed(**dict(zip(TARGET_FIELDS, target, strict=True))))

    def _planned(self) -> tuple[str, ...]:
        """The model, then the GPUs, the context, the type of the KV cache and the target, as they are typed."""
        names = ("gpu", "ctx", "kv_type", *TARGET_FIELDS)
        return (self.draft.model, *(self.draft.typed_value(name) for name in names))

    @property
    def run_question(self) -> RunQuestion:
        """What the advice on a run is asked here. The GPUs count if they were chosen for results, or if there is a
        target; the RAM next to them only if its size was typed. Raises InputError for a target or tolerance that is not
        valid.
        """
        from sweep.run_question import RunQuestion

        question = self.question
        is_placed = question.gpus and (self.limit is not None or question.target)
        ram = (f"{question.value('ram')} RAM",) if question.value("ram") and question.offload else ()
        return RunQuestion(question.tolerance, question.target, (*question.gpus, *ram) if is_placed else ())

    def as_asked(self, plan: Plan) -> Plan:
        """The plan of a run without those parts of what its advice was asked that were decided here."""
        from sweep.run_question import NO_QUESTION

        decided = {name: getattr(NO_QUESTION, name) for name in self._decided.get(plan.run, ())}
        return replace(plan, question=replace(plan.question, **decided))

    def decide(self, run: str, *names: str) -> None:
        """Ask about this run what is asked here, not what it was started with: in these fields of RunQuestion."""
        self._decided.setdefault(run, set()).update(names)

    def question_on(self, question: RunQuestion) -> Question:
        """The question of the Fit screen, with the target and the tolerance that a run is asked about."""
        words = {option: text.partition(" ")[2] for option, text in question.options.items()}
        typed = {one.name: words[one.option] for one in FIT_FIELDS if one.name in ADVICE_FIELDS and one.option in words}
        return self.question.with_typed(**typed)

    # --- between sessions -------------------------------------------------------------------------------------------

    def remember(
        self, question: Question | None = None, theme: str = "", hidden: Collection[str] | None = None
    ) -> None:
        """Let the next session start with this question, this theme, or without these columns of Results.

        Raises InputError if it cannot be written, but only once: nothing is written afterwards.
        """
        now = self.remembered
        now = now if question is None else now.with_question(question)
        now = replace(now, theme=theme) if theme else now
        now = now if hidden is None else replace(now, hidden=tuple(sorted(hidden)))
        if now != self.remembered:
            self.remembered, could_write = now, self._can_write
            self._can_write = False
            if could_write:
                remember(now)
                self._can_write = True

    # --- the rest ---------------------------------------------------------------------------------------------------

    def store_stamp(self) -> tuple[int, ...]:
        """A value that changes whenever something is written to the store."""
        database = self.workspace.database
        files = (database, database.with_name(f"{database.name}-wal"))
        found = [file.stat() for file in files if file.exists()]
        return tuple(one.st_mtime_ns for one in found if one.st_size)

    def use_gpus(self, gpus: tuple[str, ...]) -> None:
        """Use the memory of these GPUs as the limit for results; no limit if none is given. Raises InputError."""
        from sweep.fit.hardware import parse_devices

        devices = parse_devices(gpus)
        room = sum(device.usable_bytes - device.reserve_bytes for device in devices if device.kind != "cpu")
        if gpus != self.gpus:
            self.ask(self.question.with_gpus(", ".join(gpus)))
        self.limit = Limit(", ".join(gpus), room) if devices else None

    def start_sweep(self, command: Command) -> None:
        """Start a sweep in its own process. Raises InputError if it cannot be started."""
        from sweep.commands.launch import Launch

        try:
            self.launch = Launch(command, self.workspace)
        except OSError as error:
            raise InputError(f"the sweep cannot be started: {error.strerror or error}") from error
