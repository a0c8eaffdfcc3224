"""Jobs that measure a file or a checkpoint: speed and memory, perplexity and divergence, tasks. The loaded model stays
between them."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from converters.errors import InputError
from converters.gguf_source import GGUFSource, parts
from converters.llamacpp.memory import plan_memory
from converters.resolver import open_planned
from sweep.backends.base import Backend, Progress
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.execution.sizes import stored_size
from sweep.fit.fit_report import FitOptions
from sweep.fit.torch_memory import foreseen
from sweep.measure.harness import Metric, TaskRun, check_task, run_task
from sweep.measure.lm import TaskProgress
from sweep.measure.loading import Place
from sweep.measure.options import TaskOptions
from sweep.measure.perplexity import cut_windows
from sweep.measure.reference import open_reference
from sweep.measure.speed import measure_speed
from sweep.measure.text import measure_text, noise_floor
from sweep.planning.baseline import sampled_digest
from sweep.planning.inputs import read_text
from sweep.planning.settings import Settings

Result = dict[str, Any]


class Measuring:
    """`progress` is told (done, total, what is at work) while a job runs."""

    def __init__(self, progress: TaskProgress) -> None:
        self._progress: Progress = lambda done, total: progress(done, total, "")
        self._task_progress = progress
        self._backend: Backend | None = None
        self._loaded: tuple[str, str, Settings] | None = None

    def inputs(self, tasks: list[dict[str, Any]], dataset: list[str] | None, file: str | None, option: str) -> Result:
        """Make sure that all tasks can be loaded, and fetch the text of a hub dataset into `file`; `option` takes a
        file in its place."""
        from sweep.measure.wikitext import save_text

        for task in tasks:
            check_task(task["name"], _place(task), TaskOptions(**task["options"]))
        if dataset is not None and file is not None and not Path(file).exists():
            save_text(dataset[0], dataset[1], dataset[2], Path(file), option)
        return {}

    def speed(
        self, file: str, settings: dict[str, Any], runs: str = "gguf", source: str = "", name: str = ""
    ) -> Result:
        """Tokens per second, and memory: as it is predicted and as this process grew by loading and decoding.

        `runs` is the variant's kind; `source` and `name` are the checkpoint that a variant of torch is made of.
        """
        stated = Settings(**settings)
        size = _gguf_size(file, stated) if runs == "gguf" else _torch_size(file, source, name, runs, stated)
        backend = self._load(file, settings, runs)
        speed = measure_speed(backend, settings["ctx"])
        used = backend.memory()
        return {
            "speed": asdict(speed),
            "load_seconds": backend.load_seconds,
            "memory": size.pop("memory")
            | {"measured_bytes": used.measured_bytes}
            | {"host_bytes": used.resident_bytes, "device_bytes": used.device_bytes},
        } | size

    def text(
        self,
        file: str,
        settings: dict[str, Any],
        text: str,
        reference: str | None,
        writes_reference: str | None,
        writes_base: str | None = None,
        runs: str = "gguf",
    ) -> Result:
        """Perplexity of the text and the divergence from a reference, or the reference itself with its noise floor; and
        llama.cpp's base file, where one is asked for.

        `lacking` says why there is no divergence where the reference turns out to be of no use.
        """
        backend = self._load(file, settings, runs)
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

    def task(self, file: str, settings: dict[str, Any], task: dict[str, Any], runs: str = "gguf") -> Result:
        """One lm-eval task: its metrics, how it was asked, and each item's value and answer."""
        backend = self._load(file, settings, runs)
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

    def _load(self, file: str, settings: dict[str, Any], runs: str) -> Backend:
        wanted = (file, runs, Settings(**settings))
        if self._backend is None or self._loaded != wanted:
            if self._backend is not None:
                self._backend.close()
            self._backend = _open_gguf(file, wanted[2]) if runs == "gguf" else _open_torch(file, wanted[2], runs)
            self._loaded = wanted
        return self._backend


def _open_gguf(file: str, settings: Settings) -> Backend:
    options = LlamaOptions(
        n_batch=settings.batch,
        n_ubatch=settings.ubatch,
        type_k=settings.kv_type,
        type_v=settings.kv_type,
        n_threads=settings.threads,
        load=settings.load,
    )
    return LlamaBackend(file, options)


def _open_torch(file: str, settings: Settings, runs: str) -> Backend:
    import torch
    from transformers.utils import logging as transformers_logging

    from sweep.backends.int8 import OPENERS  # loads torch and transformers, which GGUF variants do not need

    transformers_logging.disable_progress_bar()
    torch.set_num_threads(settings.threads)
    return OPENERS[runs](Path(file), settings.device)


def _gguf_size(file: str, stated: Settings) -> Result:
    """What a file takes, and what memory llama.cpp predicts for it."""
    whole = GGUFSource(Path(file), requantize=True)
    predicted = plan_memory(whole.metadata, whole.tensors, stated.context, stated.load, file)
    return {
        "memory": {"predicted": asdict(predicted), "predicted_bytes": predicted.total_bytes},
        "file_bytes": sum(part.stat().st_size for part in parts(Path(file))),
        "bits_per_weight": 8 * sum(t.nbytes for t in whole.tensors) / sum(t.elements for t in whole.tensors),
    }


def _torch_size(directory: str, source: str, name: str, runs: str, stated: Settings) -> Result:
    """What a checkpoint takes, and what memory it should take by formula. Of the float model what it takes in BF16, as
    it is run: its own files may be in another dtype, and hold a vision tower that is not loaded."""
    from int8.checkpoint import read_recipe  # loads torch, which GGUF variants do not need

    options = FitOptions(context=stated.ctx, ubatch=stated.ubatch, batch=stated.batch)
    recipe = None if runs == "torch" else read_recipe(Path(directory))
    by_formula = foreseen(open_planned(source, name), runs, recipe, options)
    memory = {"memory": {"predicted_bytes": int(by_formula["memory_bytes"])}}
    if runs == "torch":
        return memory | {"file_bytes": int(by_formula["file_bytes"]), "bits_per_weight": by_formula["bits_per_weight"]}
    return memory | asdict(stored_size(Path(directory)))


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
