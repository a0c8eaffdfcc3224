"""The job that makes the files of needle tasks, whose texts have a number of tokens of the model's vocabulary."""

from __future__ import annotations

import json
from dataclasses import dataclass

import presets
from converters.atomic import write_text
from sweep.artefact import Artefact
from sweep.jobs.base import CheckPassed, Job, Site


@dataclass(frozen=True)
class NeedleJob(Job[CheckPassed]):
    """Write the task files of needle tasks with these numbers of tokens to `folder`, one folder each; see
    measure.needle. `source` is the model, a checkpoint or a GGUF file, and `name` its name. No weight is read."""

    kind = "needle"
    result_type = CheckPassed

    source: Artefact
    name: str
    lengths: tuple[int, ...]
    folder: Artefact

    def run(self, site: Site) -> CheckPassed:
        from converters.llamacpp.ghost import vocabulary
        from converters.llamacpp.model import Model
        from converters.resolver import open_source
        from sweep.measure.needle import needle_task

        opened = open_source(site.path(self.source), self.name, requantize=True)
        with vocabulary(opened.metadata) as file, Model(file, vocabulary=True) as model:
            for length in self.lengths:
                task = needle_task(length, lambda text: len(model.tokenize(text)))
                name = f"needle_{length}"
                folder = site.path(self.folder) / name
                folder.mkdir(parents=True, exist_ok=True)
                rows = [{"text": task.text, "key": one.key, "number": one.number} for one in task.needles]
                write_text(folder / f"{name}.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
                for own, written in (("dataset.py", "dataset.py"), ("needle.yaml", f"{name}.yaml")):
                    form = (presets.NEEDLE_TASK / own).read_text(encoding="utf-8")
                    write_text(folder / written, form.replace("NAME", name))
        return CheckPassed()
