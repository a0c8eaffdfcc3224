"""GGUF files in llama.cpp: quants exported from the model, and files as they are, here or on the hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from converters.errors import InputError
from converters.gguf_source import gguf_fingerprint, parts
from converters.hub import HubFile
from converters.recipes import QUANTS, recipe, refuse_without_imatrix
from sweep.artefact import Artefact
from sweep.jobs.base import Ask
from sweep.jobs.cell import Asked, Cell
from sweep.jobs.export import ExportJob
from sweep.jobs.given import ImportanceFile, Origin
from sweep.jobs.model import MeasuredModel, engine_of
from sweep.jobs.settings import Settings
from sweep.methods.base import PlannedSize, Variant, making_cell


@dataclass(frozen=True)
class Quant(Variant):
    """A quant of converters.recipes, exported from the model."""

    kind = "gguf"
    opener = "gguf"
    usage = "quant names"

    quant: str

    @classmethod
    def parse(cls, text: str) -> Self:
        quant = recipe(text).name
        return cls(quant, quant)

    def made(self, asked: Asked, importance: ImportanceFile | None) -> tuple[list[Cell], MeasuredModel]:
        origin, engine = asked.origin, engine_of(self.opener)
        weighed = importance if self.takes_importance else None
        mark = "" if weighed is None else f"-{weighed.identity[:8]}"
        job = ExportJob(
            source=origin.source,
            name=origin.name,
            quant=self.quant,
            file=asked.artefact(f"{origin.name}-{self.quant}{mark}.gguf"),
            model=origin.fingerprint,
            label=recipe(self.quant).label,
            engine=engine,
            imatrix=None if weighed is None else weighed.file,
            importance=None if weighed is None else weighed.identity,
        )
        needs = () if weighed is None or weighed.key is None else (weighed.key,)
        cell = making_cell(self, "export", job, asked, needs)
        return [cell], MeasuredModel(self.opener, job.file, cell.key, engine, asked.settings)

    @classmethod
    def predicted(
        cls, variants: Sequence[Self], origin: Origin, settings: Settings, imatrix: bool, ask: Ask
    ) -> dict[str, PlannedSize]:
        return quant_sizes([variant.quant for variant in variants], origin, settings, imatrix, ask)

    @classmethod
    def offered(cls) -> tuple[str, ...]:
        return tuple(QUANTS)

    def require_importance(self) -> None:
        refuse_without_imatrix([recipe(self.quant)])

    @property
    def takes_importance(self) -> bool:
        return not recipe(self.quant).is_float

    @property
    def exported(self) -> str:
        return self.quant

    @property
    def fit_name(self) -> str:
        return self.quant


def quant_sizes(
    quants: Sequence[str], origin: Origin, settings: Settings, imatrix: bool, ask: Ask
) -> dict[str, PlannedSize]:
    """By quant: exact file sizes, and predicted memory, from a worker. Raises InputError, MissingRuntime."""
    from sweep.jobs.sizes import SizesJob  # loads the exporter, which a plan without sizes can do without

    found = ask(SizesJob(origin.source.name, origin.name, tuple(quants), settings, imatrix)).sizes
    return {
        quant: PlannedSize(
            size.file.file_bytes,
            size.file.bits_per_weight,
            size.memory_bytes,
            header_exact=size.file.header_exact,
            mtp_bytes=size.file.mtp_bytes,
            further=asdict(size.file),
        )
        for quant, size in found.items()
    }


@dataclass(frozen=True)
class GGUFFile(Variant):
    """A GGUF file taken as it is; of a file in parts `file` is the first."""

    kind = "gguf"
    opener = "gguf"
    usage = "gguf:PATH"

    file: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        file = Path(text.partition(":")[2]).expanduser()
        if not file.is_file():
            raise InputError(f"{text}: there is no such file")
        first = parts(file.resolve())[0]
        return cls(f"gguf:{first.name}", first)

    def made(self, asked: Asked, importance: ImportanceFile | None) -> tuple[list[Cell], MeasuredModel]:
        file = self.file or Path(self.name)  # of a dry run, which fetches nothing
        content = self.name if self.file is None else gguf_fingerprint(file)
        return [], MeasuredModel(self.opener, Artefact.of(file), content, engine_of(self.opener), asked.settings)

    @property
    def file_path(self) -> Path | None:
        return self.file

    @property
    def file_bytes(self) -> int:
        return 0 if self.file is None else sum(part.stat().st_size for part in parts(self.file))

    def told_apart(self, text: str) -> str:
        return text if self.file is None else f"gguf:{self.file}"


@dataclass(frozen=True)
class HubGGUF(GGUFFile):
    """A GGUF file of the hub; it has no `file` until it is fetched."""

    usage = "hub:REPO/FILE"

    remote: HubFile | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        rest = text.partition(":")[2]
        return cls(f"hub:{rest.rpartition('/')[2]}", remote=HubFile.parse(rest))

    def fetched(self, say: Callable[[str], None], download: bool) -> Self:
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

    def told_apart(self, text: str) -> str:
        return text
