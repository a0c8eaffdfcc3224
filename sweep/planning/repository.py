"""The variants and the reference of a sweep over a repository of GGUF files that somebody published."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import log
from pathlib import Path

from converters.errors import InputError
from converters.gguf_repository import LOCAL, GGUFRepository, PublishedFile
from converters.gguf_source import GGUFSource
from converters.hub import HUB, HubFile, is_hub_id
from converters.imatrix import ImportanceMatrix
from converters.llamacpp.container import text
from converters.llamacpp.reader import read_header
from converters.resolver import find_repository, names_repository
from sweep import devices
from sweep.analysis.fit_candidates import Measurements, expected_losses
from sweep.defaults import MARGIN_BYTES
from sweep.fit.fit_report import FitOptions, FitReport, FitRow, Verdict, verdict
from sweep.fit.hardware import parse_devices
from sweep.fit.local_devices import local_devices
from sweep.format import size
from sweep.jobs.base import RunJob
from sweep.methods.base import Variant
from sweep.methods.gguf import AS_THE_SWEEP, Axes, parse_axes
from sweep.methods.published import published_variant, same_file_notes, with_publishers
from sweep.methods.registry import parse
from sweep.planning.baseline import AUTO, ReferenceFile, find_reference
from sweep.planning.fit import fit
from sweep.planning.model import ResolvedModel, resolve
from sweep.planning.request import Request
from sweep.variant_name import variant_names
from sweep.workspace import default_root

ALL = "all"
"""--variants all: every file of the repository."""
STEP = 1.2
"""Ratio of two sizes from which on both are measured by default: about half a bit per weight at 3 bits."""
CHECKPOINT_REFERENCE = "BF16"
CHOSEN = "which --reference names"

Say = Callable[[str], None]


@dataclass(frozen=True)
class PublishedChoice:
    """What a sweep over a repository measures.

    - `repository`: without files that llama.cpp cannot read.
    - `variants`: the published files, and what is made beside them.
    - `reference`: the name of the variant that the others are compared with, the first of `variants`; or that of the
      `reference_file`.
    - `reference_bytes`: the memory that a published reference needs; None for another one.
    - `weights`: the unquantized file that quants are made from; None if none are, or if they are made from
      `checkpoint`, the original model.
    - `reason`: why this is the reference, to be read after its name.
    - `reference_file`: a file of log-probabilities that the variants are compared with instead of `reference`.
    - `notes` say for people what was chosen and why.
    """

    repository: GGUFRepository
    variants: tuple[Variant, ...]
    reference: str
    reason: str
    notes: tuple[str, ...]
    reference_file: ReferenceFile | None = None
    reference_bytes: int | None = None
    weights: PublishedFile | None = None
    checkpoint: ResolvedModel | None = None


def choose(repository: GGUFRepository, request: Request, say: Say, run_job: RunJob) -> PublishedChoice:
    """What to measure of a repository.

    --variants names its files, other repositories (hub:ORG/NAME) and quants to make; `all` means every file. By
    default, and in addition to a list without =, files that fit on the devices of --gpu or of this machine are
    measured, thinned to a ladder of sizes. Raises InputError if a name is unknown, or if nothing fits.
    """
    return _Chooser(repository, request, say, run_job).choice()


def published_variants(name: str, request: Request, say: Say, run_job: RunJob) -> list[Variant]:
    """The variants that `hub:ORG/NAME` in a list stands for: what is measured of the repository by default. Raises
    InputError."""
    repository = find_repository(name, say)
    assert repository is not None  # a hub id with the prefix is a repository, or an error
    report = _report(repository, request, run_job)
    repository = _readable(repository, report, say)
    ladder, _ = _ladder(repository, report)
    return [published_variant(repository, file) for file in ladder]


@dataclass
class _Chooser:
    repository: GGUFRepository
    request: Request
    say: Say
    run_job: RunJob
    files: list[tuple[PublishedFile, Axes]] = field(default_factory=list)
    others: list[Variant] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    original: str = ""  # the hub id of the original checkpoint

    def choice(self) -> PublishedChoice:
        report = _report(self.repository, self.request, self.run_job)
        self.repository = _readable(self.repository, report, self.say)
        rows = {row.variant: row for row in report.rows}
        option = self.request.variants or ""
        names = variant_names(option.removeprefix("="))
        if not option.startswith("=") and ALL not in names:
            ladder, note = _ladder(self.repository, report)
            self.files += _unchanged(ladder)
            self.notes += note
        for name in names:
            self._add(name)
        makes = any(variant.exported_quant is not None for variant in self.others)
        whole = self.repository.whole
        has_floats = whole.float_rank is not None
        chosen = self.request.reference
        may_be_made = chosen in (None, AUTO, CHECKPOINT_REFERENCE)
        checkpoint = self._checkpoint(needed=makes) if not has_floats and (makes or may_be_made) else None
        if makes and has_floats:
            self.files += _unchanged([whole])
        if makes and not has_floats and checkpoint is None:
            made = next(variant.name for variant in self.others if variant.exported_quant is not None)
            raise InputError(
                f"{made}: {self.repository.id} has no such quant, and no unquantized file to make it from; it has"
                f" {_names(self.repository)}"
            )
        if checkpoint is not None and may_be_made:
            return self._with_checkpoint(parse(CHECKPOINT_REFERENCE), checkpoint)
        weights = whole if makes and has_floats else None
        made_from = checkpoint if makes else None
        if chosen is not None and chosen != AUTO and self.repository.find(parse_axes(chosen)[0]) is None:
            return self._with_file_of_user(chosen, weights, made_from)
        file, axes, reason = self._reference(rows)
        variants = tuple(self._variants([(file, axes), *self.files]))
        return PublishedChoice(
            self.repository,
            variants,
            variants[0].name,
            reason,
            self._notes(variants[0].name, reason),
            reference_bytes=rows[self.repository.variant(file)].total_bytes,
            weights=weights,
            checkpoint=made_from,
        )

    def _add(self, name: str) -> None:
        """Add what an item of --variants means."""
        base, axes = parse_axes(name)
        file = self.repository.find(base)
        if name == ALL:
            self.files += _unchanged(self.repository.files)
        elif file is not None:
            self.files.append((file, axes))
        else:
            self.others += self._others(name)

    def _others(self, name: str) -> list[Variant]:
        """The variants of another repository, or the one that is made."""
        if names_repository(name):
            return published_variants(name, self.request, self.say, self.run_job)
        try:
            return [parse(name)]
        except InputError as error:
            if ":" in name:
                raise
            raise InputError(
                f"{name}: {self.repository.id} has no such quant; it has {_names(self.repository)}"
            ) from error

    def _variants(self, files: Sequence[tuple[PublishedFile, Axes]]) -> list[Variant]:
        """The variants of files and the others, with the names of publishers where they are needed. Those of one file
        come after each other, because the file is on the disk until the last of them is measured. Adds notes on files
        that are the same."""
        places = list(dict.fromkeys(file for file, _ in files))
        ordered = sorted(dict.fromkeys(files), key=lambda pair: places.index(pair[0]))
        own = [published_variant(self.repository, file, axes) for file, axes in ordered]
        variants = with_publishers([*own, *self.others])
        self.notes += same_file_notes(variants)
        return variants

    def _notes(self, reference: str, reason: str) -> tuple[str, ...]:
        return (*self.notes, f"the reference is {reference}, {reason}")

    def _with_checkpoint(self, reference: Variant, checkpoint: ResolvedModel) -> PublishedChoice:
        """The choice with a reference that is made from the original checkpoint."""
        others = [variant for variant in self._variants(self.files) if variant.name != reference.name]
        reason = (
            f"made from {self.original}, the original checkpoint that the header names, because {self.repository.id}"
            " has no unquantized file"
        )
        notes = self._notes(reference.name, reason)
        variants = (reference, *others)
        return PublishedChoice(self.repository, variants, reference.name, reason, notes, checkpoint=checkpoint)

    def _with_file_of_user(
        self, chosen: str, weights: PublishedFile | None, checkpoint: ResolvedModel | None
    ) -> PublishedChoice:
        """The choice with a reference that is no file of the repository: another GGUF file, or a file of
        log-probabilities. Raises InputError if there is none."""
        if not chosen.startswith((LOCAL, HUB)) and os.sep not in chosen and not Path(chosen).expanduser().exists():
            raise InputError(
                f"--reference {chosen}: {self.repository.id} has no such file; it has {_names(self.repository)}"
            )
        found = find_reference(chosen)
        file = found if isinstance(found, ReferenceFile) else None
        first = [] if isinstance(found, ReferenceFile) else [parse(found)]
        name = first[0].name if file is None else file.name
        variants = (*first, *(one for one in self._variants(self.files) if one.name != name))
        return PublishedChoice(
            self.repository,
            variants,
            name,
            CHOSEN,
            self._notes(name, CHOSEN),
            file,
            weights=weights,
            checkpoint=checkpoint,
        )

    def _reference(self, rows: Mapping[str, FitRow]) -> tuple[PublishedFile, Axes, str]:
        """The file to compare with, and why it is: that of --reference, an unquantized one if it can run here, or else
        the largest that can."""
        repository, whole = self.repository, self.repository.whole
        chosen = self.request.reference
        base, axes = parse_axes(chosen or AUTO)
        named = repository.find(base)
        if named is not None:
            return named, axes, CHOSEN
        largest = max((file.file_bytes for file, _ in self.files), default=0)
        runs = [one for one in repository.files if self._runs(rows[repository.variant(one)], one.file_bytes, largest)]
        if whole.float_rank is not None and whole in runs:
            return whole, AS_THE_SWEEP, f"an unquantized file of {repository.id}"
        quants = [file for file in repository.files if file.float_rank is None] or [whole]
        file = next((file for file in quants if file in runs), quants[-1])
        if whole.float_rank is None:
            why = f"{repository.id} has no unquantized file"
        else:
            why = f"{repository.variant(whole)}, {size(whole.file_bytes)}, is too large for this machine"
        return file, AS_THE_SWEEP, f"which is itself quantized, because {why}"

    def _runs(self, row: FitRow, file_bytes: int, largest: int) -> bool:
        """Whether a file fits in memory and, with two others, on the disk."""
        in_memory = row.total_bytes <= _memory()
        free = shutil.disk_usage(_existing(self.request.workspace)).free
        return in_memory and (self.repository.revision is None or file_bytes + 2 * largest <= free)

    def _checkpoint(self, needed: bool) -> ResolvedModel | None:
        """The original checkpoint if the header names it, and if it can be run here. `needed`: quants are made from it,
        whether it can be run or not."""
        hub_id, why_not = original_checkpoint(self.repository)
        if hub_id is None:
            self.notes += [why_not] if why_not else []
            return None
        self.original = hub_id
        bytes_ = 2 * sum(one.elements for one in GGUFSource(self.repository.whole.path, requantize=True).tensors)
        free = shutil.disk_usage(_existing(self.request.workspace)).free
        if not needed and (bytes_ > _memory() or 2 * bytes_ > free):
            self.notes.append(f"{hub_id}, the original checkpoint, is too large for this machine ({size(bytes_)})")
            return None
        try:
            found = resolve(hub_id, self.say, planned=self.request.dry_run, is_repository=False)
        except InputError as error:
            self.notes.append(f"the original checkpoint cannot be the reference: {error}")
            return None
        return replace(found, name=self.repository.model, published=self.repository.typed)


def original_checkpoint(repository: GGUFRepository) -> tuple[str | None, str]:
    """The hub id of the checkpoint that a repository's files were made from, as their headers say it. Otherwise None,
    and why the header's statement is not used, if it has one.

    llama.cpp's converter takes general.base_model from the card of the checkpoint, which names what the checkpoint was
    tuned from. Publishers who repack a model name the model itself there. So the name decides.
    """
    metadata = read_header(repository.whole.path).metadata
    urls = [text(metadata, key) for key in ("general.source.repo_url", "general.base_model.0.repo_url")]
    own = {_plain(repository.model), _plain(text(metadata, "general.name") or "")}
    reasons = []
    for url in urls:
        found = re.search(r"([\w.-]+/([\w.-]+?))/?$", url or "")
        if found is None or not is_hub_id(found[1]):
            continue
        organization = found[1].partition("/")[0]
        if own & {_plain(found[2]), _plain(organization + found[2])}:
            return found[1], ""
        reasons.append(f"the header names {found[1]}, which is another model by its name, so it is not the reference")
    return None, next(iter(reasons), "")


def published_imatrix(repository: GGUFRepository, say: Say) -> str | None:
    """The path of the repository's importance matrix, which is downloaded; None if it has none. Raises InputError."""
    if not repository.matrices:
        return None
    matrix = repository.matrices[0]
    say(f"importance matrix: {matrix.path} of {repository.id}")
    if repository.revision is None:
        file = Path(repository.id) / matrix.path
    else:
        file = HubFile(repository.repository, repository.revision, (matrix.path,)).fetch()
    try:
        ImportanceMatrix.read(file)
    except InputError as error:
        raise InputError(
            f"{error}; it is the importance matrix of {repository.id}: give another one by --imatrix FILE, or collect"
            " one by --imatrix auto"
        ) from error
    return str(file)


@contextmanager
def names_of_files(repository: GGUFRepository) -> Iterator[None]:
    """Name the files of a repository in an InputError as users know them, not by the copies of their headers."""
    try:
        yield
    except InputError as error:
        message = str(error)
        for file in repository.files:
            message = message.replace(str(file.path), repository.spec(file))
        raise InputError(message) from error


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _report(repository: GGUFRepository, request: Request, run_job: RunJob) -> FitReport:
    """What `sweep fit` says of all files of a repository."""
    places = parse_devices(request.gpu) if request.gpu else local_devices()
    options = FitOptions(context=request.ctx or 0, kv_type_k=request.kv_type.k, kv_type_v=request.kv_type.v)
    return fit(repository.pinned, [], places, options, run_job)


def _readable(repository: GGUFRepository, report: FitReport, say: Say) -> GGUFRepository:
    """The repository without files that llama.cpp cannot read. Says which files of it are not used. Raises InputError
    if none is left."""
    found = repository.without(report.unreadable)
    for line in found.left_out:
        say(line)
    return found


def _ladder(repository: GGUFRepository, report: FitReport) -> tuple[list[PublishedFile], list[str]]:
    """The files that fit, one of each step of sizes: the one with the least expected loss. Also what to say of it.

    If no file fits on the GPUs alone, those that run partly in RAM are taken."""
    fitting = {row.variant for row in report.rows if verdict(row) is Verdict.FITS}
    fitting = fitting or {row.variant for row in report.rows if verdict(row) is Verdict.PARTLY}
    own = [file for file in repository.files if repository.variant(file) in fitting]
    quants = [file for file in own if file.float_rank is None] or own
    if not quants:
        least = min(report.rows, key=lambda row: row.total_bytes)
        raise InputError(
            f"{repository.id}: no file fits on {', '.join(device.name for device in report.devices)}; the smallest,"
            f" {least.variant}, needs {size(-least.headroom_bytes)} more. Give a shorter --ctx or more memory, or"
            " choose files by --variants ="
        )
    losses = expected_losses(report, Measurements())
    smallest = min(file.file_bytes for file in quants)
    steps: dict[int, PublishedFile] = {}
    for file in quants:  # the largest first
        step = round(log(file.file_bytes / smallest) / log(STEP))
        better = step not in steps
        if not better:
            known, new = (losses.get(repository.variant(one)) for one in (steps[step], file))
            better = known is not None and new is not None and new.value < known.value
        if better:
            steps[step] = file
    ladder = [steps[step] for step in sorted(steps, reverse=True)]
    if len(ladder) == sum(file.float_rank is None for file in repository.files):
        return ladder, []
    note = (
        f"{repository.id} has {len(repository.files)} files of the model, of which {len(own)} fit; these are"
        f" measured: {', '.join(file.name for file in ladder)} (--variants all takes all)"
    )
    return ladder, [note]


def _unchanged(files: Iterable[PublishedFile]) -> list[tuple[PublishedFile, Axes]]:
    """The files as the sweep runs them."""
    return [(file, AS_THE_SWEEP) for file in files]


def _names(repository: GGUFRepository) -> str:
    return ", ".join(file.name for file in repository.files)


def _memory() -> int:
    """Bytes of memory that a model may need to run on this machine."""
    found = devices.memory()
    return max(found.device_bytes - MARGIN_BYTES, found.machine_bytes)


def _existing(workspace: Path | None) -> Path:
    """The workspace's folder, or the one that it will be made in."""
    path = (workspace or default_root()).expanduser().absolute()
    return next(one for one in (path, *path.parents) if one.exists())
