"""The advice: which variant to run, with which KV cache, and with what in RAM; the same in every command and screen.

The candidates come from a fit report (fit_candidates.py) or from the records of a run (run_candidates.py). This module
chooses among them by one rule; presets/advice.toml says what is demanded of speed and loss, unless the user sets a
target (target_choice.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from converters.shell import join
from presets.advice import Demand, advice_rules
from sweep import format as fmt
from sweep.analysis import target_choice
from sweep.analysis.candidate import AdvisedPlacement, Candidate, TaskEvidence, TaskLoss
from sweep.analysis.target_choice import Miss, Nearest
from sweep.target import NO_TARGET, Target
from sweep.variant_name import split_cache

ABOUT_AS_LOW = 1.3
"""Ratio of two expected divergences of one model that are about as low: the spread of types around the prior's formula
is 24 %."""

MUCH_LESS = 0.8
"""Ratio of two divergences of which the lower one is worth a larger file, or a shorter context."""

ABOUT_AS_FAST = 0.9
"""Share of a speed that is about as fast: repeated measurements differ by this much."""


@dataclass(frozen=True)
class Excluded:
    """A candidate that is not considered, and the one reason. `misses` are the bounds of the target that it misses, if
    that is the reason."""

    variant: str
    kv_type: str
    reason: str
    misses: tuple[Miss, ...] = ()


@dataclass(frozen=True)
class Advice:
    """The variant to run, or None, and why.

    `smaller` is the best candidate that is smaller and about as fast, `better` the simplest and smallest that loses
    less. `other_model` is a smaller model that runs well, if the pick is poor. `shorter` runs on the GPUs alone with a
    shorter context, if the pick does not or has a noticeable loss; without a pick, or with a poor one, it may be partly
    in RAM. `undecided` is the candidate of which tasks leave a loss that matters open: the pick, or a smaller one if
    tasks alone decide. `candidates` are all that there were, `usable` those that were considered and satisfy the
    `target`. If none does, `nearest` come nearest to it.
    """

    model: str
    pick: Candidate | None
    reason: str
    smaller: Candidate | None = None
    better: Candidate | None = None
    excluded: tuple[Excluded, ...] = ()
    other_model: Candidate | None = None
    shorter: Candidate | None = None
    undecided: Candidate | None = None
    usable: tuple[Candidate, ...] = field(default=(), repr=False)
    target: Target = NO_TARGET
    nearest: tuple[Nearest, ...] = ()
    candidates: tuple[Candidate, ...] = field(default=(), repr=False)

    @property
    def variant(self) -> str | None:
        """The name of the variant to run."""
        return None if self.pick is None else self.pick.variant

    @property
    def is_poor(self) -> bool:
        """Whether the pick is slower than people read or has a clear loss, or there is no pick."""
        rules = advice_rules()
        return self.pick is None or not any(_meets(self.pick, demand) for demand in rules.demands[:2])

    @property
    def runs_well(self) -> bool:
        """Whether the pick is good enough to name it beside a poor pick of a larger model."""
        pick, rules = self.pick, advice_rules()
        return (
            pick is not None
            and pick.placement is not AdvisedPlacement.LAYERS
            and pick.loss <= rules.adequate
            and (pick.tokens_per_s or 0.0) >= rules.other_model_speed
        )

    @property
    def is_simple(self) -> bool:
        """Whether the pick runs on the GPUs alone with an f16 cache, and its loss is adequate: a smaller cache would
        not change the pick."""
        pick = self.pick
        return pick is not None and pick.effort == 0 and pick.loss <= advice_rules().adequate

    @property
    def confidence(self) -> str:
        """Where the knowledge of the pick's loss comes from: "measured" or "prior"; "cannot-tell" without a pick, or if
        the tasks that were measured leave a loss that matters open."""
        if self.pick is None or self.undecided is not None:
            return "cannot-tell"
        return "measured" if self.pick.kld is None else self.pick.kld.source

    def why_not(self, variant: str) -> str:
        """Why another variant is not the pick, after its name; empty if the variant is not a candidate."""
        for one in self.excluded:
            if one.variant == variant and (self.pick is None or one.kv_type == self.pick.kv_type):
                return one.reason
        found = [one for one in self.usable if one.variant == variant]
        return _comparison(found[0], self.pick, self.target) if found and self.pick is not None else ""


def advise(model: str, found: Sequence[Candidate], target: Target | None = None) -> Advice:
    """Choose among the candidates of one model. Those that do not satisfy the target are not chosen."""
    target = target or NO_TARGET
    reasons = [(one, _exclusion(one, found, target)) for one in found]
    reached = [one for one, why in reasons if not why]
    missing = {id(one): own for one in reached if (own := target_choice.misses(one, target))}
    excluded = []
    for one, why in reasons:
        own = missing.get(id(one), ())
        why = why or " and ".join(miss.words for miss in own)
        excluded += [Excluded(one.variant, one.kv_type, why, own)] if why else []
    usable = [one for one in reached if id(one) not in missing]
    well_known = [one for one in usable if not one.is_weakly_known]
    pick = _pick(well_known, target) or _pick(usable, target)
    if pick is None:
        near = target_choice.nearest(reached, target) if reached else ()
        why_none = _why_none(found) if not near else _why_no_target(near, target)
        return Advice(
            model, None, why_none, excluded=tuple(excluded), target=target, nearest=near, candidates=tuple(found)
        )
    others = [one for one in (usable if pick.is_weakly_known else well_known) if one.variant != pick.variant]
    smaller = [one for one in others if _is_smaller(one, pick)]
    better = [one for one in others if one.loss < MUCH_LESS * pick.loss]
    undecided = _undecided(pick, usable)
    return Advice(
        model,
        pick,
        " ".join(
            [
                *_why(pick),
                *_what_is_kept(pick, target),
                *_what_tasks_say(pick, undecided),
                *_lost_by_smaller(pick, found),
            ]
        ),
        min(smaller, key=lambda one: (one.loss, -one.file_bytes), default=None),
        min(better, key=lambda one: (one.effort, one.file_bytes), default=None),
        tuple(excluded),
        undecided=undecided,
        usable=tuple(usable),
        target=target,
        candidates=tuple(found),
    )


# --- the rule ---------------------------------------------------------------------------------------------------------


def _exclusion(one: Candidate, found: Sequence[Candidate], target: Target) -> str:
    """The one reason why a candidate is not considered, after its name; empty if it is considered.

    A bound of the target takes the place of the general limit for the same figure.
    """
    rules = advice_rules()
    if one.obstacle:
        return one.obstacle
    if one.shown_loss and target.min_recovery is None:
        return one.shown_loss
    is_too_slow = one.tokens_per_s is not None and one.tokens_per_s < rules.demands[-1].tokens_per_s
    too_slow = f"is too slow: {one.figures.rpartition(', ')[2]}" if is_too_slow and target.min_tps is None else ""
    if one.kld is None:
        by_tasks = not any(other.kld is not None for other in found)
        if target.max_kld is not None or (by_tasks and (one.tasks is not None or one.is_reference)):
            return too_slow if target else ""
        return "has no measured KL divergence, and no published measurement says what it loses"
    if _type_is_avoided(one):
        return f"is not chosen unless it was measured: {rules.not_chosen[split_cache(one.variant)[0]]}"
    worst = rules.demands[-1]
    if one.kld.value > worst.kld and not target.bounds_quality:
        return f"has {_SOURCES[one.kld.source]} of {fmt.small(one.kld.value)} nats, which is beyond use"
    return too_slow


def _pick(usable: Sequence[Candidate], target: Target) -> Candidate | None:
    """The best candidate of those that meet the first demand that any meets; with a target, the best of all."""
    if usable and all(one.kld is None for one in usable) and not target.bounds_quality:
        return _pick_by_tasks(usable)
    if target:
        return target_choice.best(usable, target) if usable else None
    for demand in advice_rules().demands:
        meeting = [one for one in usable if _meets(one, demand)]
        if meeting:
            return _best(meeting, demand.share_of_fastest)
    return None


def _pick_by_tasks(usable: Sequence[Candidate]) -> Candidate:
    """The smallest candidate down to which every one rules out a loss that matters.

    The order of the tests is fixed before them, from the largest candidate to the smallest, and they end at the first
    that fails. So the probability of choosing one that loses too much is that of a single test, however many there are.
    """
    chosen, *rest = sorted(usable, key=lambda one: (not one.is_reference, -one.file_bytes))
    for one in rest:
        if not one.is_reference and (one.tasks is None or one.tasks.verdict is not TaskLoss.RULED_OUT):
            break
        chosen = one
    return chosen


def _meets(one: Candidate, demand: Demand) -> bool:
    """A speed that was not measured in a run demands nothing; every candidate of a fit report has one."""
    return one.loss <= demand.kld and (one.tokens_per_s is None or one.tokens_per_s >= demand.tokens_per_s)


def _best(found: Sequence[Candidate], share_of_fastest: float) -> Candidate:
    """The candidate to choose among those that meet a demand, with this share of the speed of the fastest.

    What is simplest to run comes first, if its divergence is adequate: everything on the GPUs with an f16 cache, then
    with a smaller cache, then with something in RAM. There, the lowest divergence wins, but a larger file does not win
    by a difference that nobody notices, nor does a larger cache with the same file, and what was measured comes before
    what is expected. If nothing is adequate, the lowest divergence wins; of those that are about as low, the simplest
    to run.
    """
    rules = advice_rules()
    for effort in range(4):
        adequate = [one for one in found if one.effort == effort and one.loss <= rules.adequate]
        adequate = [one for one in adequate if one.is_measured] or adequate
        if adequate:
            fastest = max(one.tokens_per_s or 0.0 for one in adequate)
            least = share_of_fastest * fastest
            return min(
                (one for one in adequate if one.tokens_per_s is None or one.tokens_per_s >= least),
                key=lambda one: (max(one.loss, rules.unnoticeable), one.file_bytes, one.memory_bytes),
            )
    lowest = min(one.loss for one in found)
    near = [one for one in found if one.loss <= ABOUT_AS_LOW * lowest]
    return min(near, key=lambda one: (one.effort, one.loss, one.file_bytes))


def is_adequate(one: Candidate) -> bool:
    """Whether its loss is known and small, and its type is one to choose, wherever it may run."""
    return one.loss <= advice_rules().adequate and not _type_is_avoided(one) and not one.shown_loss


def _type_is_avoided(one: Candidate) -> bool:
    """Whether its type is one to choose only if it was measured."""
    return split_cache(one.variant)[0] in advice_rules().not_chosen and not one.is_measured


def _is_smaller(one: Candidate, pick: Candidate) -> bool:
    fast = (one.tokens_per_s or 0.0) >= ABOUT_AS_FAST * (pick.tokens_per_s or 0.0)
    return one.file_bytes < pick.file_bytes and (fast or one.tokens_per_s is None)


def _undecided(pick: Candidate, usable: Sequence[Candidate]) -> Candidate | None:
    """See Advice."""
    smaller = [] if pick.kld is not None else sorted(usable, key=lambda one: -one.file_bytes)
    below = next((one for one in smaller if one.file_bytes < pick.file_bytes), None)
    return next((one for one in (pick, below) if one is not None and _is_open(one)), None)


def _is_open(one: Candidate) -> bool:
    """Whether tasks were measured and cannot tell whether it loses more than is tolerated."""
    return one.tasks is not None and one.tasks.verdict is TaskLoss.OPEN


# --- the words --------------------------------------------------------------------------------------------------------

_SOURCES = {"measured": "a measured KL divergence", "prior": "an expected KL divergence"}


def _why(pick: Candidate) -> list[str]:
    """What the pick is, how fast it runs and what it loses, in sentences."""
    lines = [f"Run {pick.name} ({pick.figures})."]
    if pick.is_reference:
        lines.append("It is the reference, with which the others are compared.")
    elif pick.kld is not None:
        span = f"95 % interval {fmt.small(pick.kld.low)} to {fmt.small(pick.kld.high)}"
        if pick.is_measured:
            which = "measured KL divergence" + (f" at the {pick.kld.basis}" if pick.kld.basis else "")
        else:
            which = f"expected KL divergence, by {pick.kld.basis},"
        lines.append(f"Its {which} is {fmt.small(pick.kld.value)} nats per token ({span}).")
        if pick.kld.value > advice_rules().clear_loss:
            lines.append("This is a clear loss: expect worse answers than those of the unquantized model.")
        if pick.kld.source == "prior":
            lines.append(f"`{join(['sweep', 'run', *_cache_words(pick)])}` measures it.")
    if pick.is_in_ram and (pick.max_context or 0) > pick.context:
        lines.append(f"With more of it in RAM, its context can be up to {pick.max_context:,} tokens long.")
    return lines


def _what_tasks_say(pick: Candidate, undecided: Candidate | None) -> list[str]:
    """A sentence on the loss of the pick on tasks, and one on what they leave open."""
    if undecided is not None and undecided.tasks is not None:
        whose = "" if undecided is pick else f" whether {undecided.name} would do"
        chosen = ", so it is chosen by KL divergence" if pick.kld is not None else ""
        return [f"Tasks cannot tell yet{whose}: {_left_open(undecided.tasks)}{chosen}.", *_settled(undecided.tasks)]
    if pick.tasks is not None:
        return [_ruled_out(pick.tasks)]
    return ["Its answers to tasks were not compared."] if pick.is_measured and not pick.is_reference else []


def _ruled_out(found: TaskEvidence) -> str:
    lost = f"loses {100 * found.loss:.1f} points" if found.loss > 0 else "loses nothing"
    most = f"a loss of more than {100 * max(found.at_most, 0.0):.1f} is ruled out (95 % confidence)"
    where = _where(found)
    return f"{where[0].upper()}{where[1:]} it {lost}, and {most}; {100 * found.tolerance:.3g} would be tolerated."


def _left_open(found: TaskEvidence) -> str:
    if not found.items:
        return "the scores are not shares of items"
    limit = f"{100 * found.tolerance:.3g} are tolerated"
    loss = f"a loss of up to {100 * found.at_most:.1f} points"
    return f"{found.items:,} items{_each(found)} leave open {loss} {_where(found)} ({limit})"


def _settled(found: TaskEvidence) -> list[str]:
    """How many items would settle what tasks leave open; nothing if that is not known."""
    if found.settling_items is None or found.settling_items <= found.items:
        return []
    return [f"About {found.settling_items:,} items{_each(found)} would settle it, if it loses nothing."]


def _each(found: TaskEvidence) -> str:
    return "" if len(found.tasks) == 1 else " per task"


def _where(found: TaskEvidence) -> str:
    return f"on {fmt.plain(found.tasks[0])}" if len(found.tasks) == 1 else f"on average over {len(found.tasks)} tasks"


def _lost_by_smaller(pick: Candidate, found: Sequence[Candidate]) -> list[str]:
    """A sentence on the largest of the smaller variants with a loss on tasks."""
    losing = [one for one in found if one.shown_loss and one.file_bytes < pick.file_bytes]
    if not losing:
        return []
    one = max(losing, key=lambda one: one.file_bytes)
    return [f"The smaller {one.name} {one.shown_loss}."]


def _what_is_kept(pick: Candidate, target: Target) -> list[str]:
    """A sentence on the task scores, if the target bounds them."""
    if target.min_recovery is None or pick.recovery is None or pick.is_reference:
        return []
    return [f"It keeps {100 * pick.recovery:.1f} % of the reference's task score above chance."]


def _why_no_target(near: Sequence[Nearest], target: Target) -> str:
    words = " and ".join(map(target.words, target.bounds))
    return " ".join([f"No variant satisfies {words}.", *(target_choice.nearest_words(one, target) for one in near)])


def _why_none(found: Sequence[Candidate]) -> str:
    if not found:
        return "There is no variant to choose from."
    if all(one.obstacle for one in found):
        only = {one.obstacle.partition(":")[0] for one in found} == {"does not fit"}
        return "No variant fits." if only else f"No variant can be chosen. {found[0].name} {found[0].obstacle}."
    return "No variant that fits is worth running: each is too slow, beyond use, or unknown."


def _comparison(one: Candidate, pick: Candidate, target: Target) -> str:
    """Why a usable candidate is not the pick, after its name."""
    if one.variant == pick.variant:
        return ""
    if target.bounds_quality and target.min_tps is None and one.file_bytes > pick.file_bytes:
        return "is larger, and the choice satisfies the target"
    rules = advice_rules()
    if one.is_weakly_known and not pick.is_weakly_known and one.kld is not None and one.loss < pick.loss:
        return f"is expected to lose {fmt.small(one.loss)} nats only by {one.kld.basis}"
    if one.loss > pick.loss and one.loss > rules.unnoticeable:
        return f"has a higher KL divergence: {fmt.small(one.loss)} nats"
    if one.file_bytes > pick.file_bytes and one.kld is not None:
        return f"is larger, and nobody notices what it gains ({fmt.small(one.loss)} nats)"
    if one.effort > pick.effort:
        return "is not as simple to run"
    if one.file_bytes == pick.file_bytes and one.memory_bytes > pick.memory_bytes > 0:
        return "needs more memory for its KV cache, and nobody notices what it gains"
    if (one.tokens_per_s or 0.0) < (pick.tokens_per_s or 0.0):
        return "is slower"
    if one.kld is None and one.file_bytes < pick.file_bytes:
        return "is smaller, but its tasks leave a loss open"
    return "is no better"


# --- JSON -------------------------------------------------------------------------------------------------------------


def to_json(advice: Advice, model: str, workspace: Sequence[str]) -> dict[str, Any]:
    """The advice as the JSON field "advice" of `sweep fit` and of the event "finished".

    `model` is the MODEL that was asked about, as it is typed, and `workspace` the option that names the workspace.
    """
    alternatives = [
        ("smaller", advice.smaller),
        ("better", advice.better),
        ("shorter context", advice.shorter),
        ("other model", advice.other_model),
    ]
    pick = advice.pick
    return {
        "model": advice.model,
        **(_candidate(pick) if pick is not None else dict.fromkeys(_FIELDS)),
        "confidence": advice.confidence,
        "reason": advice.reason,
        "alternatives": [
            {"direction": direction, "model": one.model, **_candidate(one)} for direction, one in alternatives if one
        ],
        "excluded": [
            {
                "variant": one.variant,
                "kv_type": one.kv_type,
                "reason": one.reason,
                "misses": [miss.constraint.value for miss in one.misses],
            }
            for one in advice.excluded
        ],
        "target": {constraint.value: bound for constraint, bound in advice.target.bounds.items()} or None,
        "nearest": [
            {
                "constraint": near.constraint.value,
                "variant": None if near.one is None else near.one.variant,
                "kv_type": None if near.one is None else near.one.kv_type,
                "value": near.value,
                "also_misses": [miss.constraint.value for miss in near.also_misses],
            }
            for near in advice.nearest
        ],
        "settle": _settle(advice, model, workspace),
    }


def _settle(advice: Advice, model: str, workspace: Sequence[str]) -> dict[str, Any] | None:
    """The sweep that replaces expected figures by measured ones, or measures more items; None if nothing is open."""
    pick = advice.pick
    if pick is None or advice.confidence == "measured":
        return None
    asked = (pick, advice.undecided, advice.smaller, advice.better)
    names = dict.fromkeys(one.variant for one in asked if one is not None)
    measured = advice.undecided if pick.is_reference and advice.undecided is not None else pick
    variants = f"={','.join(names)}"  # = leaves out the preset's variants
    words = ["sweep", "run", model, "--variants", variants, *_cache_words(measured)]
    evidence = advice.undecided.tasks if advice.undecided is not None else None
    items = None if evidence is None else evidence.settling_items
    if evidence is not None:
        words += ["--tasks", ",".join(evidence.tasks), *(["--limit", str(items)] if items is not None else [])]
    return {"items": items, "command": join([*words, *workspace])}


def _cache_words(pick: Candidate) -> list[str]:
    """The option of `sweep run` for the pick's KV cache, if llama.cpp runs it and the cache is not the default."""
    return ["--kv-type", pick.kv_type] if pick.commands.run and pick.kv_type != "f16" else []


_FIELDS = (
    *("variant", "kv_type", "ctx", "max_ctx", "placement", "tokens_per_s", "speed_source", "expected_kld"),
    *("command", "get"),
)


def _candidate(one: Candidate) -> dict[str, Any]:
    speed = None if one.tokens_per_s is None else "measured" if one.speed_is_measured else "estimate"
    return {
        "variant": one.variant,
        "kv_type": one.kv_type,
        "ctx": one.context,
        "max_ctx": one.max_context,
        "placement": one.placement.value,
        "tokens_per_s": one.tokens_per_s,
        "speed_source": speed,
        "expected_kld": None if one.kld is None else vars(one.kld),
        "command": one.commands.run,
        "get": one.commands.get or None,
    }
