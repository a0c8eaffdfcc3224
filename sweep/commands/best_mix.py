"""`sweep convert --to 5.5GiB`: the best mix of types that is not larger.

Two ordinary sweeps measure what is needed. The first reads the calibration text with one group of tensors at a time in
one type, and with files in which all tensors have one type. From these divergences a knapsack chooses the types. The
second reads another text with the mix and with the plain quants and XL mixes of its size: only if the mix is better,
with a 95 % interval, it is written; otherwise the best of the others is. Results are stored, so an interrupted search
goes on, and a search for another size measures only its proof.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import presets
from converters.atomic import exists_already, write_text
from converters.catalogue import FileSize, sizes
from converters.errors import InputError
from converters.imatrix import ImportanceMatrix, uniform_importance
from converters.mixes import MIX_PREFIX, TYPES, mix_of
from converters.plan import Importance
from converters.recipes import QUANTS
from converters.resolver import Need, find_model, open_source
from converters.source import Source
from sweep.commands.run import prepare, run
from sweep.events import Event
from sweep.execution.local import LocalHost
from sweep.jobs.sizes import ExportCheckJob
from sweep.jobs.type_choice import TypeChoiceJob
from sweep.mixing.budget import Budget, mix_budget
from sweep.mixing.sensitivity import Sensitivities
from sweep.mixing.tensor_groups import TensorGroup, alone, tensor_groups, uniform
from sweep.mixing.type_sizes import BASES, TypeSizes
from sweep.planning.imatrix import AUTO
from sweep.planning.prepare import Sweep
from sweep.planning.request import Keep, Request
from sweep.planning.texts import calibration_text
from sweep.results.store import Store
from sweep.results.text_rounds import with_last_rounds
from sweep.statistics.bootstrap import bootstrap_means, percentile_interval
from sweep.variant_name import variant_names
from sweep.workspace import Workspace, open_workspace

PROBE = "Q3_K"
"""The type in which each group is measured alone."""
OTHERS = "Q8_0"
"""The type of all other tensors then. It is close to the reference, and half as large and faster on most machines."""
REFERENCE = "BF16"
WINDOWS = 32
"""Windows of the calibration text. Divergences vary little between windows, and all groups read the same ones."""
RIVALS = 3
"""Plain quants and XL mixes that the mix is compared with: the largest that are not larger than the budget."""
_TERNARY = ("TQ1_0", "TQ2_0")  # for models that were trained with such weights

Watch = Callable[[Sweep], AbstractContextManager[Callable[[Event], None]]]
"""Shows the progress of a sweep."""


@dataclass(frozen=True)
class MixRequest:
    """`each`: every tensor is a group of its own. `types`: those that the mix may use. `rules`: REGEX=TYPE, types that
    are fixed; a group of which a tensor's name matches gets this type. `calibration` is the text for
    the sensitivities (and for imatrix "auto"), `perplexity` the text for the proof; None: the model's own, or
    published ones. `out`: the folder where the file of the mix must not exist yet."""

    model: str
    budget: Budget
    types: tuple[str, ...] = tuple(BASES)
    each: bool = False
    rules: tuple[str, ...] = ()
    requantize: bool = False
    imatrix: str | None = None
    calibration: Path | None = None
    perplexity: Path | None = None
    workspace: Path | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Measured:
    """A file of the proof: its size, and its divergence on the text of the proof, in nats per token, by window."""

    variant: str
    file_bytes: int
    window_kld: NDArray[np.float64] = field(repr=False)

    @property
    def kld(self) -> float:
        return float(self.window_kld.mean())


@dataclass(frozen=True)
class BestMix:
    """`mix` and the files that it was compared with, the best first. `ratio` is the divergence of the mix over that of
    the best of the others, with its 95 % interval; None if no other file is small enough. `predicted` is the divergence
    of the mix that the sensitivities promise on their text. `recipe` is the file of the mix, `calibration` the text
    that the chosen file is made with."""

    budget: Budget
    limit: int
    recipe: Path
    mix: Measured
    rivals: tuple[Measured, ...]
    ratio: tuple[float, float, float] | None
    predicted: float
    text: str
    calibration: Path | None = None

    @property
    def is_better(self) -> bool:
        return self.ratio is None or self.ratio[2] < 1.0

    @property
    def chosen(self) -> Measured:
        """The file to write."""
        return self.mix if self.is_better else self.rivals[0]

    @property
    def quant(self) -> str:
        """What `sweep convert --to` calls the chosen file."""
        return f"{MIX_PREFIX}{self.recipe}" if self.is_better else self.chosen.variant

    def save_recipe(self, file: Path) -> None:
        """Write the recipe of the mix beside its file, if it is the chosen one: it makes the same file again."""
        if self.is_better:
            write_text(file, self.recipe.read_text(encoding="utf-8"))


def checked_types(names: Sequence[str] | None) -> tuple[str, ...]:
    """The types of --mix-types; the default ones for None. Raises InputError for an unknown one."""
    if names is None:
        return tuple(BASES)
    for name in names:
        if name.upper() not in TYPES:
            raise InputError(f"--mix-types {name}: not a type that tensors can have; give some of {', '.join(TYPES)}")
    return tuple(dict.fromkeys(name.upper() for name in names))


def find_best_mix(request: MixRequest, say: Callable[[str], None], watch: Watch) -> BestMix:
    """Measure the sensitivities, choose the types, and compare the mix with other files of its size.

    Raises InputError for bad input, for a budget that no file can keep, and if a measurement failed.
    """
    return _proven(*_choose(request, say, watch), say, watch)


def with_mixes(request: Request, say: Callable[[str], None], watch: Watch) -> Request:
    """The request of a sweep, with the recipe files of the mixes that its variants name by a size (mix:5.5GiB). What
    they need is measured first; the sweep then compares them with its other variants. Raises InputError."""
    option = request.variants or ""
    names = variant_names(option.removeprefix("="))
    made = {name: _recipe_of(name, request, say, watch) for name in names}
    if all(made[name] == name for name in names):
        return request
    first = "=" if option.startswith("=") else ""
    return replace(request, variants=first + ",".join(made[name] for name in names))


def _recipe_of(name: str, request: Request, say: Callable[[str], None], watch: Watch) -> str:
    """The name of a variant with the recipe file in place of a size; the same name if it has no size."""
    _, plus, axes = name.partition("+")
    budget = mix_budget(name)
    if budget is None:
        return name
    if request.dry_run:
        raise InputError(f"{name}: the mix is known only after measuring; leave --dry-run out")
    asked = MixRequest(
        model=request.model,
        budget=budget,
        requantize=request.requantize,
        imatrix=request.imatrix,
        calibration=request.calibration,
        workspace=request.workspace,
    )
    planned, _, _ = _choose(asked, say, watch)
    return f"{MIX_PREFIX}{planned.recipe}{plus}{axes}"


def _choose(request: MixRequest, say: Callable[[str], None], watch: Watch) -> tuple[_Planned, int, float]:
    """Measure the sensitivities and choose the types. Returns the mix, whose recipe file is written, the limit for its
    file in bytes, and the divergence that is expected of it."""
    found = find_model(request.model, Need.WEIGHTS, say)
    if request.out is not None:
        for ending in ("gguf", "toml"):
            file = request.out / f"{found.name}-{request.budget.text}.{ending}"
            if file.exists():  # what it will contain is not known yet
                raise InputError(exists_already(file))
    with LocalHost() as host:  # an unknown model can make llama.cpp end its process
        quants = (uniform(PROBE),)
        host.run_job(ExportCheckJob(str(found.path), found.name, quants, True, requantize=request.requantize))
    source = open_source(str(found.path), found.name, requantize=request.requantize)
    workspace = open_workspace(request.workspace)
    groups = tensor_groups(source, request.each)
    request, fixed = _with_rules(request, groups)
    table = TypeSizes.of(source, groups, request.types)
    planned = _Planned(request, source, table, fixed, workspace)
    planned.require_possible()
    say(
        f"{request.budget.text}: the cost of {len(groups)} groups of tensors and {len(request.types)} types is measured"
    )
    sensitivities = _sensitivities(request, groups, workspace, say, watch)
    costs = sensitivities.costs([group.name for group in groups], request.types)
    chosen, limit = planned.choose(costs)
    return planned, limit, float(costs[np.arange(len(chosen)), chosen].sum())


@dataclass(frozen=True)
class _Planned:
    """Makes recipe files, and knows the exact sizes of files."""

    request: MixRequest
    source: Source
    table: TypeSizes
    allowed: NDArray[np.bool_]
    workspace: Workspace

    @property
    def recipe(self) -> Path:
        return self.workspace.root / "mixes" / self.source.fingerprint[:16] / f"{self.request.budget.text}.toml"

    def require_possible(self) -> None:
        """Raises InputError if even the smallest types are too large."""
        self._smallest()

    def choose(self, costs: NDArray[np.float64]) -> tuple[Sequence[int], int]:
        """The type of each group, and the limit for the file. The recipe file is written; the file that it makes is
        planned as llama.cpp makes it, and is not larger than the limit."""
        beside, limit = self._smallest()
        over = 0
        while True:
            job = TypeChoiceJob(_rows(costs), _rows(self.table.sizes), _rows(self.allowed), limit - beside - over)
            with LocalHost() as host:
                chosen = host.run_job(job).chosen
            self._write(chosen)
            size = self._size(f"{MIX_PREFIX}{self.recipe}").file_bytes
            if size <= limit:
                return chosen, limit
            over += size - limit  # tensors outside the groups have the types of another base

    def _smallest(self) -> tuple[int, int]:
        """The bytes beside the groups, which are the header and other tensors, and the limit for the whole file. Raises
        InputError if even the file with the smallest types is larger."""
        smallest = np.where(self.allowed, self.table.sizes, np.iinfo(np.int64).max).argmin(1).tolist()
        self._write(smallest)
        least = self._size(f"{MIX_PREFIX}{self.recipe}")
        limit = self.request.budget.limit(least.header_bytes, self.source_weights)
        if least.file_bytes > limit:
            raise InputError(
                f"--to {self.request.budget.text}: too small for this model; with the smallest types of"
                f" {', '.join(self.table.types)} its file has {least.file_bytes:,} bytes"
            )
        return least.file_bytes - self.table.total(smallest), limit

    @property
    def source_weights(self) -> int:
        return sum(tensor.elements for tensor in self.source.tensors)

    def _write(self, chosen: Sequence[int]) -> None:
        self.recipe.parent.mkdir(parents=True, exist_ok=True)
        comment = [f"The best mix of {self.source.name} in {self.request.budget.text}, by `sweep convert`"]
        write_text(self.recipe, self.table.recipe(chosen, comment))

    def _size(self, quant: str) -> FileSize:
        return self.sizes([quant])[quant]

    def sizes(self, quants: Sequence[str]) -> Mapping[str, FileSize]:
        return sizes(self.source, quants, self.importance)

    @property
    def importance(self) -> Importance | None:
        """The importance matrix for planning: the one of a file, or one that needs the same space."""
        name = self.request.imatrix
        if name is None:
            return None
        if name == AUTO:
            return uniform_importance(self.source)
        return ImportanceMatrix.read(Path(name)).importance(Path(name).name)

    def rivals(self, limit: int) -> list[str]:
        """The quants to compare with: the largest that are not larger than the limit, with at least one XL mix if one
        is small enough."""
        names = [
            name
            for name, one in QUANTS.items()
            if not one.is_float and name not in _TERNARY and (self.request.imatrix or not one.needs_imatrix)
        ]
        known = self.sizes(names)
        small = sorted((name for name in names if known[name].file_bytes <= limit), key=lambda n: -known[n].file_bytes)
        xl = [name for name in small if QUANTS[name].mix is not None][:1]
        return list(dict.fromkeys([*small[:RIVALS], *xl]))


def _rows(table: NDArray[Any]) -> tuple[tuple[Any, ...], ...]:
    return tuple(map(tuple, table.tolist()))


def _with_rules(request: MixRequest, groups: Sequence[TensorGroup]) -> tuple[MixRequest, NDArray[np.bool_]]:
    """The request with the types of its rules, and which types each group may have: bool [groups, types]. Raises
    InputError for a rule that is none, or that matches nothing."""
    rules = mix_of(request.rules).rules
    types = tuple(dict.fromkeys((*request.types, *(rule.type for rule in rules))))
    allowed = np.ones((len(groups), len(types)), bool)
    for index, group in enumerate(groups):
        own = [rule for rule in rules if any(re.search(rule.regex or "", name) for name in group.tensors)]
        kept = {own[0].type} if own else set(request.types)
        allowed[index] = [type_ in kept for type_ in types]
    for rule in rules:
        if not any(re.search(rule.regex or "", name) for group in groups for name in group.tensors):
            raise InputError(f"--tensor-type {rule.regex}={rule.type}: no tensor that can be quantized has such a name")
    return replace(request, types=types), allowed


def _sensitivities(
    request: MixRequest, groups: Sequence[TensorGroup], workspace: Workspace, say: Callable[[str], None], watch: Watch
) -> Sensitivities:
    """Measure what the groups and the types cost on the calibration text."""
    probes = {alone(group, PROBE, OTHERS): group.name for group in groups}
    uniforms = {uniform(type_): type_ for type_ in dict.fromkeys((*request.types, OTHERS))}
    builtin = presets.builtin_models().get(request.model)
    chosen = None if request.calibration is None else str(request.calibration)
    text = calibration_text(chosen, builtin, workspace=workspace.root)
    if text.dataset is not None:
        raise InputError(f"--to {request.budget.text}: give a calibration text with --calibration FILE")
    asked = _request(request, [*probes, *uniforms], text.file.file.under(workspace.root), say)
    asked = replace(asked, windows=WINDOWS, precision="full")
    known = {name: float(values.mean()) for name, values in _measure(asked, say, watch).items()}
    return Sensitivities(
        PROBE,
        {group: max(known[name] - known[uniform(OTHERS)], 0.0) for name, group in probes.items()},
        {type_: known[name] for name, type_ in uniforms.items()},
    )


def _proven(planned: _Planned, limit: int, predicted: float, say: Callable[[str], None], watch: Watch) -> BestMix:
    """Compare the mix with the other files on the text of the proof."""
    request = planned.request
    mix, rivals = f"{MIX_PREFIX}{planned.recipe}", planned.rivals(limit)
    say(f"{request.budget.text}: the mix is compared with {', '.join(rivals) or 'nothing: no other quant is as small'}")
    asked = _request(request, [mix, *rivals], request.perplexity, say)
    known = _measure(asked, say, watch)
    size = planned.sizes([mix, *rivals])
    own = Measured(
        f"{MIX_PREFIX}{planned.recipe.stem}", size[mix].file_bytes, known[f"{MIX_PREFIX}{planned.recipe.stem}"]
    )
    others = sorted((Measured(name, size[name].file_bytes, known[name]) for name in rivals), key=lambda one: one.kld)
    ratio = None if not others else _ratio(own.window_kld, others[0].window_kld)
    text = "its own test text" if request.perplexity is None else str(request.perplexity)
    return BestMix(request.budget, limit, planned.recipe, own, tuple(others), ratio, predicted, text, asked.calibration)


def _ratio(own: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float, float]:
    """The ratio of two mean divergences over the windows that both were measured on, with its 95 % interval by a
    paired bootstrap over windows."""
    windows = min(own.size, other.size)
    rows = np.stack([own[:windows], other[:windows]])
    first, second = bootstrap_means(rows)
    low, high = percentile_interval(first / second, windows)
    return float(rows[0].mean() / rows[1].mean()), low, high


def _request(request: MixRequest, names: Sequence[str], text: Path | None, say: Callable[[str], None]) -> Request:
    return Request(
        model=request.model,
        variants="=" + ",".join(names),
        reference=REFERENCE,
        requantize=request.requantize,
        measure=("text",),
        tasks=("none",),
        perplexity=() if text is None else (text,),
        imatrix=request.imatrix,
        calibration=request.calibration if request.imatrix == AUTO else None,  # others do not read it
        keep=Keep.NONE,
        workspace=request.workspace,
    )


def _measure(asked: Request, say: Callable[[str], None], watch: Watch) -> Mapping[str, NDArray[np.float64]]:
    """The divergence of each variant but the reference, by window, in nats per token. Raises InputError if one
    failed."""
    sweep = replace(prepare(asked, say), one_by_one=True)
    with watch(sweep) as show:
        plan = run(sweep, show)
    with Store(sweep.workspace.database) as store:
        plan = with_last_rounds(plan, store)
        outcomes = store.outcomes(cell.key for cell in plan.cells)
    found = {}
    for cell in plan.cells:
        if cell.name != "text" or cell.variant == plan.reference:
            continue
        outcome = outcomes.get(cell.key)
        result = None if outcome is None or outcome.status != "ok" else outcome.result(cell, plan.run)
        if outcome is None or result is None or result.divergence is None:
            raise InputError(f"{cell.variant}: could not be measured: {(outcome and outcome.error) or 'no result'}")
        found[cell.variant] = np.array(result.divergence.window_kld)
    return found
