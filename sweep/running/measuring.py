"""Jobs that measure a file: speed and memory, perplexity and divergence, tasks. The loaded model stays between them."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from converters.errors import InputError
from converters.gguf_source import GGUFSource, parts
from converters.llamacpp.memory import plan_memory
from sweep.backends.base import Progress
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.baseline import sampled_digest
from sweep.inputs import read_text
from sweep.measure.harness import Metric, TaskRun, check_task, run_task
from sweep.measure.lm import TaskProgress
from sweep.measure.loading import Place
from sweep.measure.options import TaskOptions
from sweep.measure.perplexity import cut_windows
from sweep.measure.reference import open_reference
from sweep.measure.speed import measure_speed
from sweep.measure.text import measure_text, noise_floor
from sweep.settings import Settings

Result = dict[str, Any]


class Measuring:
    """`progress` is told (done, total, what is at work) while a job runs."""

    def __init__(self, progress: TaskProgress) -> None:
        self._progress: Progress = lambda done, total: progress(done, total, "")
        self._task_progress = progress
        self._backend: LlamaBackend | None = None
        self._loaded: tuple[str, LlamaOptions] | None = None

    def inputs(self, tasks: list[dict[str, Any]], dataset: list[str] | None, file: str | None) -> Result:
        """Make sure that all tasks can be loaded, and fetch the text of a hub dataset into `file`."""
        from sweep.measure.wikitext import save_text

        for task in tasks:
            check_task(task["name"], _place(task), TaskOptions(**task["options"]))
        if dataset is not None and file is not None and not Path(file).exists():
            save_text(dataset[0], dataset[1], dataset[2], Path(file))
        return {}

    def speed(self, file: str, settings: dict[str, Any]) -> Result:
        """Tokens per second, and memory: as llama.cpp predicts it and as this process grew by loading and decoding."""
        whole = GGUFSource(Path(file), requantize=True)
        stated = Settings(**settings)
        predicted = plan_memory(whole.metadata, whole.tensors, stated.context, stated.load, file)
        backend = self._load(file, settings)
        speed = measure_speed(backend, settings["ctx"])
        used = backend.memory()
        return {
            "speed": asdict(speed),
            "load_seconds": backend.load_seconds,
            "memory": {"predicted": asdict(predicted), "predicted_bytes": predicted.total_bytes}
            | {"measured_bytes": used.measured_bytes}
            | {"host_bytes": used.resident_bytes, "device_bytes": used.device_bytes},
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
        writes_base: str | None = None,
    ) -> Result:
        """Perplexity of the text and the divergence from a reference, or the reference itself with its noise floor; and
        llama.cpp's base file, where one is asked for.

        `lacking` says why there is no divergence where the reference turns out to be of no use.
        """
        backend = self._load(file, settings)
        windows = cut_windows(backend, read_text(Path(text)), n_ctx=settings["window"], stride=settings["stride"])
        written = None if writes_reference is None else Path(writes_reference)
        base = None if writes_base is None else Path(writes_base)
        measure = partial(
            measure_text, backend, threads=settings["threads"], progress=self._progress, write_base_file=base
        )
        lacking = None
        if reference is None:
            measured = measure(windows, write_reference=written, model=Path(file).name)
        else:
            try:
                known = open_reference(Path(reference))
                part = windows.head(known.windows)  # a given file may be of the text's beginning alone
                measured = measure(part, reference=known)
                windows = part
            except InputError as error:
                measured, lacking = measure(windows), f"no divergence: {error}"  # raises where the model is to blame
        return {
            "lacking": lacking,
            "base_file": None if base is None else sampled_digest(base),
            "windows_sha256": windows.sha256,
            "perplexity": asdict(measured.perplexity),
            "divergence": None if measured.divergence is None else asdict(measured.divergence),
            "noise_floor": None if written is None else asdict(noise_floor(backend, windows, open_reference(written))),
        }

    def task(self, file: str, settings: dict[str, Any], task: dict[str, Any]) -> Result:
        """One lm-eval task: its metrics, how it was asked, and each item's value and answer."""
        backend = self._load(file, settings)
        options = TaskOptions(**task["options"])
        run = run_task(backend, task["name"], _place(task), options, self._task_progress)
        primary = run.primary
        return {
            "metric": primary.name,
            "value": primary.value,
            "stderr": primary.stderr,
            "higher_is_better": primary.higher_is_better,
            "n": run.n,
            "chance": run.chance,
            "other": {_metric_name(metric): metric.value for metric in run.metrics if metric is not primary},
            "settings": options.identity
            | {
                "num_fewshot": run.num_fewshot,
                "max_gen_toks": run.max_gen_toks,
                "data": task["data"] or task["folder"],
            },
            "left_out": run.left_out,
            "unfinished": run.unfinished,
            "sharing": None if run.sharing is None else asdict(run.sharing),
            "notes": _notes(run, options),
            "items": [
                (
                    f"{item.doc_id} {item.doc_hash} {item.prompt_hash}",
                    item.values[primary.key],
                    item.answers.get(primary.filter, ""),
                    item.gold_probability,
                    item.task,
                )
                for item in run.items
                if primary.key in item.values
            ],
        }

    def _load(self, file: str, settings: dict[str, Any]) -> LlamaBackend:
        options = LlamaOptions(
            n_batch=settings["batch"],
            n_ubatch=settings["ubatch"],
            type_k=settings["kv_type"],
            type_v=settings["kv_type"],
            n_threads=settings["threads"],
            load=Settings(**settings).load,
        )
        if self._loaded != (file, options):
            if self._backend is not None:
                self._backend.close()
            self._backend = LlamaBackend(file, options)
            self._loaded = (file, options)
        assert self._backend is not None
        return self._backend


def _place(task: dict[str, Any]) -> Place:
    folder, data = (None if task[key] is None else Path(task[key]) for key in ("folder", "data"))
    return Place(folder, data, task["data_name"])


def _notes(run: TaskRun, options: TaskOptions) -> list[str]:
    """What a reader of the score should know."""
    notes = []
    if run.left_out:
        why = "to check them takes data of nltk that is not here"
        notes.append(f"{run.left_out} items left out, {run.n} scored: {why}")
    if run.unfinished and options.thinking:
        notes.append(f"{run.unfinished} of {run.n} answers reached their bound of {run.max_gen_toks} tokens")
    return notes


def _metric_name(metric: Metric) -> str:
    return metric.name if metric.filter == "none" else metric.key
