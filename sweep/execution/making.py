"""Jobs that plan and make files: sizes, exports, importance matrices, int8 checkpoints."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.catalogue import size_of
from converters.export import export
from converters.imatrix import ImportanceMatrix, even_importance
from converters.llamacpp.ghost import vocabulary
from converters.llamacpp.imatrix import collect
from converters.llamacpp.memory import plan_memory
from converters.llamacpp.model import Model
from converters.plan import FilePlan, Importance, plan_export, planned_types
from converters.recipes import recipes
from converters.resolver import open_planned, open_source
from converters.source import Source
from int8.recipe import from_json
from sweep.backends.base import Progress
from sweep.execution.sizes import stored_size
from sweep.fit.fit_report import FitOptions
from sweep.fit.torch_memory import foreseen
from sweep.measure.lm import require_template
from sweep.measure.perplexity import require_two_windows
from sweep.planning.calibration import CHUNK
from sweep.planning.inputs import read_text
from sweep.planning.settings import Settings

if TYPE_CHECKING:
    from int8.build import Text as CalibrationText

Result = dict[str, Any]


class Making:
    """`progress` is told (done, total) while a job runs."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def sizes(
        self,
        source: str,
        name: str,
        quants: list[str],
        settings: dict[str, Any],
        imatrix: bool,
        torch: dict[str, tuple[str, dict[str, Any] | None]],
    ) -> Result:
        """Exact file sizes and predicted memory of quants that do not exist yet: {quant: {...}}; the same by formula of
        the variants of `torch`, by their kinds and int8 recipes.

        `imatrix`: whether there will be an importance matrix; some types depend on it.
        """
        opened = open_planned(source, name)
        stated = Settings(**settings)
        plans: dict[str, FilePlan] = {}
        for recipe in recipes(quants):
            given = even_importance(opened) if recipe.needs_imatrix or imatrix else None
            plans |= plan_export(opened, [recipe.name], given)
        return {
            quant: asdict(size_of(opened, plan, header_exact=not (imatrix or plan.recipe.needs_imatrix)))
            | {"memory_bytes": _memory(opened, plan, stated)}
            for quant, plan in plans.items()
        } | {
            variant: foreseen(
                opened, kind, None if stored is None else from_json(stored, variant), _fit_options(stated)
            )
            | {"header_exact": False, "mtp_bytes": 0}
            for variant, (kind, stored) in torch.items()
        }

    def vet(self, source: str, name: str, quants: list[str], options: dict[str, Any], imatrix: bool) -> Result:
        """Let llama.cpp plan files of quants, because a stranger's model can make it end the process.

        `options` are those of `open_source`; `imatrix`: whether there will be an importance matrix.
        """
        opened = open_planned(source, name, **options)
        for recipe in recipes(quants):
            planned_types(opened, recipe, imatrix or recipe.needs_imatrix)
        return {}

    def vocabulary(self, source: str, name: str, text: str | None, window: int, chat: bool, thinking: Any) -> Result:
        """Make sure that the model's tokens of a text are enough for two windows, and that it has the chat template
        that is to be used (`chat`, `thinking`). No weight is read.
        """
        opened = open_source(Path(source), name, requantize=True)
        with vocabulary(opened.metadata) as file, Model(file, vocabulary=True) as model:
            if chat:
                require_template(model.chat_template, thinking)
            if text is not None:
                require_two_windows(len(model.tokenize(read_text(Path(text)), add_special=True)), window)
        return {}

    def calibration(self, source: str, text: str, text_name: str) -> Result:
        """Make sure that the model's tokens of a text are enough to calibrate int8 recipes with. No weight is read."""
        from int8.build import calibration_tokens

        calibration_tokens(Path(source), _calibration_text(text, text_name), None, None)
        return {}

    def export(
        self,
        source: str,
        name: str,
        targets: dict[str, str],
        threads: int,
        imatrix: str | None,
    ) -> Result:
        """All quants of `targets` (quant -> file) in one pass, by the importance in the file `imatrix`."""
        paths = {quant: Path(file) for quant, file in targets.items()}
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        plans = export(
            open_source(Path(source), name),
            paths,
            lambda at: self._progress(at.done_bytes, at.total_bytes),
            threads,
            _importance(imatrix),
        )
        return {
            quant: {
                "file_bytes": plan.file_bytes,
                "bits_per_weight": plan.bits_per_weight,
                "census": {kind: asdict(count) for kind, count in plan.census.items()},
            }
            for quant, plan in plans.items()
        }

    def quantize(
        self,
        source: str,
        name: str,
        recipe: dict[str, Any],
        text: str | None,
        text_name: str | None,
        file: str,
        cache: str,
        settings: dict[str, Any],
    ) -> Result:
        """Calibrate an int8 recipe, by a text where it needs one, and write the checkpoint to the directory `file`."""
        import torch

        from int8 import build, checkpoint

        torch.set_num_threads(settings["threads"])
        stated = from_json(recipe, name)
        out = Path(file)
        if checkpoint.is_int8(out):  # whole, for it appears so: made by a run beside this one, which may be reading it,
            # or by one that was killed before it could write that down
            return {"calibration": asdict(checkpoint.read_calibration(out))} | asdict(stored_size(out))
        model, calibration = build.build(
            Path(source),
            stated,
            None if text is None else _calibration_text(text, text_name),
            device=settings["device"],
            dtype="bfloat16",  # whatever the checkpoint is stored in: so is what the variant is compared with
            cache=Path(cache),
            progress=self._progress,
        )
        checkpoint.save(model, stated, calibration, Path(source), out)
        return {"calibration": asdict(calibration)} | asdict(stored_size(out))

    def imatrix(self, file: str, text: str, makes: str, origin: str, settings: dict[str, Any]) -> Result:
        """Let the model in `file` read a text, and write the importance of its weights to `makes`."""
        collected = collect(
            Path(file),
            read_text(Path(text)),
            n_ctx=CHUNK,
            progress=self._progress,
            n_threads=settings["threads"],
            load=Settings(**settings).load,
        )
        matrix = ImportanceMatrix.of(collected, Path(text).name, origin)
        Path(makes).parent.mkdir(parents=True, exist_ok=True)
        matrix.write(Path(makes))
        return {"notes": list(matrix.told)}


def _calibration_text(text: str, name: str | None) -> CalibrationText:
    from int8.build import Text  # loads torch, which GGUF does not need

    return Text(name or text, lambda: read_text(Path(text)))


def _fit_options(stated: Settings) -> FitOptions:
    return FitOptions(context=stated.ctx, ubatch=stated.ubatch, batch=stated.batch)


def _memory(source: Source, plan: FilePlan, stated: Settings) -> int:
    return plan_memory(source.structure, plan.tensors, stated.context, stated.load, source.path).total_bytes


def _importance(imatrix: str | None) -> Importance | None:
    return None if imatrix is None else ImportanceMatrix.read(Path(imatrix)).importance(Path(imatrix).name)
