"""The job that builds prompts of tasks in the chat templates of models, before a run starts."""

from __future__ import annotations

from dataclasses import dataclass

from sweep.artefact import Artefact
from sweep.jobs.base import CheckPassed, Job, Site
from sweep.jobs.inputs import Task


@dataclass(frozen=True)
class TemplateSource:
    """A checkpoint directory or a GGUF file with a chat template, and its name."""

    file: Artefact
    name: str


@dataclass(frozen=True)
class PromptCheckJob(Job[CheckPassed]):
    """Load every task, and write the first prompt of each sub-task in the chat template of every model. No weight is
    read."""

    kind = "prompts"
    result_type = CheckPassed

    sources: tuple[TemplateSource, ...]
    tasks: tuple[Task, ...]

    def run(self, site: Site) -> CheckPassed:
        from converters.chat_template import chat_template
        from converters.errors import InputError
        from converters.llamacpp.ghost import vocabulary
        from converters.llamacpp.model import Model
        from converters.resolver import open_source
        from sweep.measure.chat import ChatTemplateError
        from sweep.measure.harness import check_prompts

        checked = set()
        for source in self.sources:
            path = site.path(source.file)
            template = chat_template(path)
            if template in checked:  # variants of one model have the same template
                continue
            checked.add(template)
            opened = open_source(path, source.name, requantize=True)
            with vocabulary(opened.metadata) as file, Model(file, vocabulary=True) as model:
                for task in self.tasks:
                    try:
                        check_prompts(model, task.name, task.location(site.root), task.options)
                    except ChatTemplateError as error:
                        raise InputError(f"{path}: {error} (task {task.name})") from error
        return CheckPassed()
