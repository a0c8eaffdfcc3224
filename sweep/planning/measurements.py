"""Which measurements a sweep makes: the user's choice, the preset's, or all."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from converters.errors import InputError
from converters.gguf_source import gguf_fingerprint, parts
from converters.hub import HUB, HubFile
from converters.llamacpp.reader import read_header
from converters.shell import join
from sweep.artefact import Artefact
from sweep.defaults import LEAST_PROMPT_TOKENS
from sweep.fit.fit_report import MTP
from sweep.jobs.model import MeasuredModel, engine_versions
from sweep.jobs.registry import SPEED, TASKS, TEXT, measurement_names
from sweep.jobs.settings import Settings
from sweep.planning.model import ResolvedModel
from sweep.planning.request import Request


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of measurements without repetitions. Raises InputError for an unknown one, and if there is none."""
    known = measurement_names()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
            raise InputError(f"there is no measurement {name!r}; {hint}")
    if not names:
        raise InputError(f"names no measurement; choose from {', '.join(known)}")
    return tuple(dict.fromkeys(names))


def chosen_measurements(request: Request, default: Sequence[str]) -> tuple[str, ...]:
    """The measurements of a sweep: those of --measure or, if it is not given, `default`.

    Raises InputError if another option is for a measurement that is not among them."""
    if request.measure is None:
        return tuple(default)
    try:
        chosen = checked_names(request.measure)
    except InputError as error:
        raise InputError(f"--measure: {error}") from error
    options = (
        (TEXT, "--perplexity", bool(request.perplexity)),
        (TEXT, "--window", request.window is not None),
        (TEXT, "--stride", request.stride is not None),
        (TEXT, "--write-base", request.write_base is not None),
        (TASKS, "--tasks", request.tasks not in (None, ("none",))),
        (SPEED, "--depth", bool(request.depth)),
        (SPEED, "--draft", request.draft is not None),
        (TEXT, "--draft continues a text, so it", request.draft is not None),
    )
    for name, option, is_given in options:
        if is_given and name not in chosen:
            raise InputError(f"{option} is for the measurement {name}, which --measure leaves out; add it there")
    return chosen


def measured_alone(request: Request) -> tuple[str, ...]:
    """What `sweep eval` measures without --measure: everything, or only what was asked for by --perplexity, --tasks and
    --depth, beside the measurements of extensions."""
    asked = {
        TEXT: bool(request.perplexity) or request.draft is not None,
        TASKS: request.tasks not in (None, ("none",)),
        SPEED: bool(request.depth) or request.draft is not None,
    }
    names = measurement_names()
    return tuple(name for name in names if asked.get(name, True)) if any(asked.values()) else names


def draft_model(draft: Path | None, settings: Settings) -> MeasuredModel | None:
    """The model of --draft, in llama.cpp and with an f16 cache. Raises InputError if it is not a GGUF file."""
    if draft is None:
        return None
    if str(draft) == MTP:
        raise InputError(
            "--draft mtp: the acceptance of MTP layers is not measured; give the GGUF file of a smaller model"
        )
    if not draft.is_file():
        raise InputError(f"--draft {draft}: there is no such GGUF file{_how_to_get(str(draft))}")
    first = parts(draft.resolve())[0]
    read_header(first)
    plain = replace(settings, kv_type=Settings.kv_type, cpu_moe=0, tensor_split=())
    return MeasuredModel("gguf", Artefact.of(first), gguf_fingerprint(first), engine_versions("gguf"), plain)


def _how_to_get(draft: str) -> str:
    """How to get the file of a draft that is not on this machine; empty for the path of a file."""
    if draft.startswith(HUB):
        file = HubFile.parse(draft.removeprefix(HUB))
        return f"; download it: {join(file.download_words)}"
    return "" if draft.endswith(".gguf") else f"; `sweep convert {draft} --to Q8_0 --out DIR` makes one of a model"


def checked_depths(depths: Sequence[int], model: ResolvedModel) -> tuple[int, ...]:
    """The depths at which speed is measured beside that of an empty context. Raises InputError for one that leaves no
    room for a prompt."""
    for depth in depths:
        if depth + LEAST_PROMPT_TOKENS > model.context:
            raise InputError(
                f"--depth {depth}: {model.name} was trained for {model.context} tokens, which leaves no room for a "
                f"prompt of {LEAST_PROMPT_TOKENS} tokens after {depth}"
            )
    return tuple(sorted({depth for depth in depths if depth}))
