"""GGUF files, run by llama.cpp: quants that are exported from the model, and existing files, local or on the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from converters.errors import InputError
from converters.gguf_source import gguf_fingerprint, parts
from converters.hub import HubFile
from converters.llamacpp.container import Field
from converters.llamacpp.reader import read_header
from converters.mixes import MIX_PREFIX
from converters.recipes import QUANTS, recipe, reject_missing_imatrix
from converters.resolver import Need, open_source
from sweep.artefact import Artefact
from sweep.jobs.base import RunJob
from sweep.jobs.cell import Cell, SweepInputs
from sweep.jobs.export import ExportJob
from sweep.jobs.inputs import ImatrixFile, Origin
from sweep.jobs.model import MeasuredModel, engine_versions
from sweep.jobs.settings import Settings
from sweep.kv_cache import KVCache
from sweep.methods.base import PredictedSize, Variant, preparation_cell
from sweep.methods.projector import Projector, image_inputs, parse_projector, projector_job
from sweep.variant_name import MMPROJ, cache_axis, split_cache


@dataclass(frozen=True)
class Axes:
    """What a variant's name says of how its file is run; None: as the sweep does."""

    projector: Projector | None = None
    cache: KVCache | None = None

    @property
    def suffix(self) -> str:
        """For the end of a variant's name."""
        return cache_axis(self.cache) + ("" if self.projector is None else self.projector.suffix)

    @property
    def distinct_suffix(self) -> str:
        """The same with the path of the projector file."""
        projector = self.projector
        return cache_axis(self.cache) + ("" if projector is None else f"{MMPROJ}{projector.quant or projector.file}")


AS_THE_SWEEP = Axes()


def parse_axes(text: str) -> tuple[str, Axes]:
    """The part of a variant's name before the axes, and these. Raises InputError."""
    plain, cache = split_cache(text)
    base, projector = parse_projector(plain)
    return base, Axes(projector, cache)


def with_cache(settings: Settings, cache: KVCache | None) -> Settings:
    return settings if cache is None else settings.with_cache(cache)


@dataclass(frozen=True)
class Quant(Variant):
    """A quant of converters.recipes, which is exported from the model."""

    kind = "gguf"
    opener = "gguf"
    usage = "quant names"

    takes_cache = True

    quant: str
    projector: Projector | None = None
    cache: KVCache | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        base, axes = parse_axes(text)
        quant = recipe(base).name
        return cls(quant + axes.suffix, quant, axes.projector, axes.cache)

    def prepare(self, inputs: SweepInputs, imatrix: ImatrixFile | None) -> tuple[list[Cell], MeasuredModel]:
        origin, engine = inputs.origin, engine_versions(self.opener)
        used = imatrix if self.uses_imatrix else None
        suffix = "" if used is None else f"-{used.identity[:8]}"
        job = ExportJob(
            source=origin.whole,
            name=origin.name,
            quant=self.quant,
            file=inputs.artefact(f"{origin.name}-{recipe(self.quant).distinct_title}{suffix}.gguf"),
            model=origin.fingerprint,
            label=recipe(self.quant).label,
            engine=engine,
            imatrix=None if used is None else used.file,
            importance=None if used is None else used.identity,
        )
        needs = (*origin.needs, *(() if used is None or used.key is None else (used.key,)))
        cell = preparation_cell(self, "export", job, inputs, needs)
        model = MeasuredModel(self.opener, job.file, cell.key, engine, with_cache(inputs.settings, self.cache))
        if inputs.images is None:
            return [cell], model
        text = open_source(origin.source.name, origin.name, requantize=True, need=Need.PLAN).structure
        projector, model = with_projector(self, self.projector, model, text, None, inputs)
        return [cell, projector], model

    @classmethod
    def predicted_sizes(
        cls, variants: Sequence[Self], origin: Origin, settings: Settings, imatrix: bool, run_job: RunJob
    ) -> dict[str, PredictedSize]:
        found: dict[str, PredictedSize] = {}
        for cache in dict.fromkeys(variant.cache for variant in variants):
            alike = [variant for variant in variants if variant.cache == cache]
            quants = list(dict.fromkeys(variant.quant for variant in alike))
            sizes = quant_sizes(quants, origin, with_cache(settings, cache), imatrix, run_job)
            found |= {variant.name: sizes[variant.quant] for variant in alike}
        return found

    @classmethod
    def suggested_names(cls) -> tuple[str, ...]:
        return tuple(QUANTS)

    def require_imatrix(self) -> None:
        reject_missing_imatrix([recipe(self.quant)])

    @property
    def uses_imatrix(self) -> bool:
        return not recipe(self.quant).is_float

    @property
    def exported_quant(self) -> str:
        return self.quant

    @property
    def names_projector(self) -> bool:
        return self.projector is not None

    @property
    def projector_file(self) -> Path | None:
        return None if self.projector is None else self.projector.file

    @property
    def fit_name(self) -> str:
        return self.distinct_name(self.name)

    def distinct_name(self, text: str) -> str:
        return text if self.projector_file is None else self.quant + Axes(self.projector, self.cache).distinct_suffix


@dataclass(frozen=True)
class OwnMix(Quant):
    """A quant in which a user's file of rules chooses types: `mix:FILE.toml`. `quant` names the file by its path."""

    usage = "mix:FILE.toml"

    @classmethod
    def parse(cls, text: str) -> Self:
        base, axes = parse_axes(text)
        found = recipe(base)
        return cls(f"{MIX_PREFIX}{found.title}{axes.suffix}", found.name, axes.projector, axes.cache)

    @classmethod
    def suggested_names(cls) -> tuple[str, ...]:
        return ()

    @property
    def fit_name(self) -> str:
        return self.quant + Axes(self.projector, self.cache).suffix

    def distinct_name(self, text: str) -> str:
        return text


def with_projector(
    variant: Variant,
    projector: Projector | None,
    model: MeasuredModel,
    text: Mapping[str, Field],
    file: Path | None,
    inputs: SweepInputs,
) -> tuple[Cell, MeasuredModel]:
    """The cell of the variant's projector file, and its model with it."""
    job = projector_job(variant.name, projector, text, file, inputs)
    return preparation_cell(variant, "projector", job, inputs), replace(model, images=image_inputs(job, inputs))


def quant_sizes(
    quants: Sequence[str], origin: Origin, settings: Settings, imatrix: bool, run_job: RunJob
) -> dict[str, PredictedSize]:
    """Exact file sizes and predicted memory by quant; a worker computes them. Raises InputError, MissingRuntime."""
    from sweep.jobs.sizes import SizesJob  # loads the exporter, which only sizes need

    sizes = run_job(SizesJob(origin.source.name, origin.name, tuple(quants), settings, imatrix)).sizes
    return {
        quant: PredictedSize(
            size.file.file_bytes,
            size.file.bits_per_weight,
            size.memory_bytes,
            header_exact=size.file.header_exact,
            mtp_bytes=size.file.mtp_bytes,
            extra=asdict(size.file),
        )
        for quant, size in sizes.items()
    }


@dataclass(frozen=True)
class GGUFFile(Variant):
    """An existing GGUF file. If it is split into parts, `file` is the first part."""

    kind = "gguf"
    opener = "gguf"
    usage = "gguf:PATH"

    takes_cache = True

    file: Path | None = None
    projector: Projector | None = None
    cache: KVCache | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        base, axes = parse_axes(text)
        file = Path(base.partition(":")[2]).expanduser()
        if not file.is_file():
            raise InputError(f"{base}: there is no such file")
        first = parts(file.resolve())[0]
        return cls(f"gguf:{first.name}{axes.suffix}", first, axes.projector, axes.cache)

    def prepare(self, inputs: SweepInputs, imatrix: ImatrixFile | None) -> tuple[list[Cell], MeasuredModel]:
        file = self.file or Path(self.name)  # no file in a dry run, which downloads nothing
        content = self.name if self.file is None else gguf_fingerprint(file)
        settings = with_cache(inputs.settings, self.cache)
        model = MeasuredModel(self.opener, Artefact.of(file), content, engine_versions(self.opener), settings)
        if inputs.images is None or self.file is None:
            return [], model
        cell, model = with_projector(self, self.projector, model, read_header(file).metadata, file, inputs)
        return [cell], model

    @classmethod
    def predicted_sizes(
        cls, variants: Sequence[Self], origin: Origin, settings: Settings, imatrix: bool, run_job: RunJob
    ) -> dict[str, PredictedSize]:
        known = {variant.name: (variant, variant.file) for variant in variants if variant.file is not None}
        if not known:
            return {}
        from sweep.jobs.sizes import FileSizesJob  # loads the exporter, which only sizes need

        models = tuple(
            MeasuredModel(variant.opener, Artefact.of(file), name, "", with_cache(settings, variant.cache))
            for name, (variant, file) in known.items()
        )
        sizes = run_job(FileSizesJob(models)).sizes
        return {
            name: PredictedSize(size.file_bytes, size.bits_per_weight, size.memory_bytes, header_exact=True)
            for name, size in zip(known, sizes, strict=True)
        }

    @property
    def axes(self) -> Axes:
        return Axes(self.projector, self.cache)

    @property
    def names_projector(self) -> bool:
        return self.projector is not None

    @property
    def projector_file(self) -> Path | None:
        return None if self.projector is None else self.projector.file

    @property
    def file_path(self) -> Path | None:
        return self.file

    @property
    def file_bytes(self) -> int:
        return 0 if self.file is None else sum(part.stat().st_size for part in parts(self.file))

    def distinct_name(self, text: str) -> str:
        if self.file is None:
            return text
        return f"gguf:{self.file}{self.axes.distinct_suffix}"


@dataclass(frozen=True)
class HubGGUF(GGUFFile):
    """A GGUF file on the hub. `file` is None until it is downloaded."""

    usage = "hub:REPO/FILE"

    remote: HubFile | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        base, axes = parse_axes(text)
        rest = base.partition(":")[2]
        name = f"hub:{rest.rpartition('/')[2]}{axes.suffix}"
        return cls(name, projector=axes.projector, cache=axes.cache, remote=HubFile.parse(rest))

    def with_file(self, say: Callable[[str], None], download: bool) -> Self:
        assert self.remote is not None
        file = self.remote.cached()
        if file is None and download:
            say(f"fetching {self.name} of {self.remote.repository} from the hub")
            file = self.remote.fetch()
        return replace(self, file=file)

    @property
    def file_bytes(self) -> int:
        if self.file is None and self.remote is not None:
            return self.remote.size()
        return super().file_bytes

    def distinct_name(self, text: str) -> str:
        return text
