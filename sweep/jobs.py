"""What a worker can be asked to do: each job is a function of its parameters and of the files they name.

The loaded model is kept between jobs of the same file and settings; all results are plain JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from converters.catalogue import open_planned, size_of, sizes
from converters.errors import InputError
from converters.export import export
from converters.gguf_source import GGUFSource, parts
from converters.imatrix import ImportanceMatrix, even_importance
from converters.llamacpp.imatrix import collect
from converters.llamacpp.memory import plan_memory
from converters.llamacpp.model import ContextOptions
from converters.plan import FilePlan, Importance, plan_export
from converters.recipes import recipes
from converters.source import open_source
from sweep.backends.base import Progress
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.calibration import CHUNK
from sweep.measure.harness import Metric, check_task, run_task
from sweep.measure.perplexity import cut_windows
from sweep.measure.reference import Reference
from sweep.measure.speed import measure_speed
from sweep.measure.text import measure_text, noise_floor

Result = dict[str, Any]


class Jobs:
    """The jobs of one worker. `progress` is told (done, total) while one runs."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._backend: LlamaBackend | None = None
        self._loaded: tuple[str, LlamaOptions] | None = None
        self._jobs: dict[str, Callable[..., Result]] = {
            "plan": self.plan,
            "sizes": self.sizes,
            "inputs": self.inputs,
            "export": self.export,
            "imatrix": self.imatrix,
            "speed": self.speed,
            "text": self.text,
            "task": self.task,
        }

    def run(self, job: dict[str, Any]) -> Result:
        """Do the job named by `kind` with the other entries as its parameters."""
        parameters = dict(job)
        return self._jobs[parameters.pop("kind")](**parameters)

    def sizes(self, source: str, name: str, quants: list[str], settings: dict[str, Any], imatrix: bool) -> Result:
        """Exact file sizes and predicted memory of quants that do not exist yet: {quant: {...}}.

        `imatrix`: whether there will be an importance matrix; some types depend on it.
        """
        opened = open_planned(source, name)
        options = _context(settings)
        plans: dict[str, FilePlan] = {}
        for recipe in recipes(quants):
            given = even_importance(opened) if recipe.needs_imatrix or imatrix else None
            plans |= plan_export(opened, [recipe.name], given)
        return {
            quant: asdict(size_of(opened, plan, header_exact=not (imatrix or plan.recipe.needs_imatrix)))
            | {"memory_bytes": plan_memory(opened.metadata, plan.tensors, options).total_bytes}
            for quant, plan in plans.items()
        }

    def plan(
        self,
        source: str,
        name: str,
        quants: list[str],
        options: dict[str, Any],
        imatrix: str | None,
        collected: list[str] | None,
        max_part_bytes: int | None,
    ) -> Result:
        """What files of quants would be: {quant: {...}}. `options` are those of `open_source`.

        `collected` are the names of an importance matrix yet to be made, and of its text.
        """
        opened = open_planned(source, name, **options)
        importance = _importance(imatrix) if collected is None else even_importance(opened, *collected)
        planned = sizes(opened, quants, importance, max_part_bytes)
        return {quant: asdict(size) for quant, size in planned.items()}

    def inputs(self, tasks: list[list[str | None]], dataset: list[str] | None, file: str) -> Result:
        """Make sure that all tasks can be loaded, and fetch the text of a hub dataset into `file`."""
        from sweep.measure.wikitext import save_text

        for task, folder in tasks:
            check_task(str(task), None if folder is None else Path(folder))
        if dataset is not None and not Path(file).exists():
            save_text(dataset[0], dataset[1], dataset[2], Path(file))
        return {}

    def export(
        self,
        source: str,
        name: str,
        targets: dict[str, str],
        threads: int,
        options: dict[str, Any] | None = None,
        imatrix: str | None = None,
        memory_budget: int | None = None,
    ) -> Result:
        """All quants of `targets` (quant -> file) in one pass. `options` are those of `open_source`."""
        paths = {quant: Path(file) for quant, file in targets.items()}
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        plans = export(
            open_source(Path(source), name, **options or {}),
            paths,
            lambda at: self._progress(at.done_bytes, at.total_bytes),
            threads,
            _importance(imatrix),
            memory_budget=memory_budget,
        )
        return {
            quant: {
                "file_bytes": plan.file_bytes,
                "bits_per_weight": plan.bits_per_weight,
                "census": {kind: asdict(count) for kind, count in plan.census.items()},
            }
            for quant, plan in plans.items()
        }

    def imatrix(self, file: str, text: str, makes: str, origin: str, settings: dict[str, Any]) -> Result:
        """Let the model in `file` read a text, and write the importance of its weights to `makes`."""
        collected = collect(
            Path(file),
            _read_text(Path(text)),
            n_ctx=CHUNK,
            progress=self._progress,
            n_threads=settings["threads"],
            n_gpu_layers=settings["gpu_layers"],
        )
        matrix = ImportanceMatrix.of(collected, Path(text).name, origin)
        Path(makes).parent.mkdir(parents=True, exist_ok=True)
        matrix.write(Path(makes))
        return {
            "chunks": matrix.chunks,
            "chunk_size": matrix.chunk_size,
            "coverage": matrix.coverage,
            "partly_covered": matrix.partly_covered,
        }

    def speed(self, file: str, settings: dict[str, Any]) -> Result:
        """Tokens per second, and memory: as llama.cpp predicts it and as this process grew by loading and decoding."""
        whole = GGUFSource(Path(file), requantize=True)
        predicted = plan_memory(whole.metadata, whole.tensors, _context(settings))
        backend = self._load(file, settings)
        speed = measure_speed(backend, settings["ctx"])
        return {
            "speed": asdict(speed),
            "memory": {"predicted": asdict(predicted), "predicted_bytes": predicted.total_bytes}
            | {"measured_bytes": backend.memory().resident_bytes},
            "file_bytes": sum(part.stat().st_size for part in parts(Path(file))),
            "bits_per_weight": 8 * sum(t.nbytes for t in whole.tensors) / sum(t.elements for t in whole.tensors),
        }

    def text(
        self,
        file: str,
        settings: dict[str, Any],
        text: str,
        reference: str | None,
        writes_reference: str | None,
    ) -> Result:
        """Perplexity of the text and the divergence from a reference, or the reference itself with its noise floor."""
        backend = self._load(file, settings)
        windows = cut_windows(backend, _read_text(Path(text)), n_ctx=settings["window"])
        known = None if reference is None else Reference(Path(reference))
        written = None if writes_reference is None else Path(writes_reference)
        measured = measure_text(
            backend,
            windows,
            reference=known,
            write_reference=written,
            model=Path(file).name,
            progress=self._progress,
        )
        return {
            "perplexity": asdict(measured.perplexity),
            "divergence": None if measured.divergence is None else asdict(measured.divergence),
            "noise_floor": None if written is None else asdict(noise_floor(backend, windows, Reference(written))),
        }

    def task(self, file: str, settings: dict[str, Any], task: str, folder: str | None, limit: int | None) -> Result:
        """One lm-eval task: its metrics, and each item's value and answer."""
        backend = self._load(file, settings)
        include = None if folder is None else Path(folder)
        run = run_task(backend, task, include_path=include, limit=limit, progress=self._progress)
        primary = run.primary
        return {
            "metric": primary.name,
            "value": primary.value,
            "stderr": primary.stderr,
            "higher_is_better": primary.higher_is_better,
            "n": run.n,
            "chance": run.chance,
            "other": {_metric_name(metric): metric.value for metric in run.metrics[1:]},
            "items": [
                (f"{item.task} {item.doc_id} {item.doc_hash} {item.prompt_hash}", item.values[primary.key], answer)
                for item in run.items
                for answer in [item.answers.get(primary.filter, "")]
            ],
        }

    def _load(self, file: str, settings: dict[str, Any]) -> LlamaBackend:
        options = LlamaOptions(
            n_batch=settings["batch"],
            n_ubatch=settings["ubatch"],
            type_k=settings["kv_type"],
            type_v=settings["kv_type"],
            n_threads=settings["threads"],
            n_gpu_layers=settings["gpu_layers"],
        )
        if self._loaded != (file, options):
            if self._backend is not None:
                self._backend.close()
            self._backend = LlamaBackend(file, options)
            self._loaded = (file, options)
        assert self._backend is not None
        return self._backend


def _metric_name(metric: Metric) -> str:
    return metric.name if metric.filter == "none" else metric.key


def _context(settings: dict[str, Any]) -> ContextOptions:
    return ContextOptions(
        n_ctx=settings["ctx"],
        n_batch=settings["batch"],
        n_ubatch=settings["ubatch"],
        type_k=settings["kv_type"],
        type_v=settings["kv_type"],
        n_threads=settings["threads"],
    )


def _importance(imatrix: str | None) -> Importance | None:
    return None if imatrix is None else ImportanceMatrix.read(Path(imatrix)).importance(Path(imatrix).name)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); convert it first") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
