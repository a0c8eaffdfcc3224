"""The job that compares the tokens of all models of a run before anything is measured.

Two models that split a text differently predict different things: their perplexities, divergences and scores cannot
stand in one table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import presets
from converters.errors import InputError
from sweep.artefact import Artefact
from sweep.jobs.base import CheckPassed, Job, Site
from sweep.jobs.inputs import TextFile
from sweep.measure.text_form import TextForm

if TYPE_CHECKING:
    from sweep.measure.token_streams import Vocabulary


class Reader(StrEnum):
    """How a model's tokens are read."""

    EXPORT = "export"  # llama.cpp, from the vocabulary that an export of the model gets
    FILE = "file"  # llama.cpp, from a GGUF file of the user
    TORCH = "torch"  # torch, from a checkpoint's directory


@dataclass(frozen=True)
class TokenSource:
    """Where the tokens of a variant come from: `variant` is its name, for people, `model` the model's."""

    variant: str
    model: str
    file: Artefact
    reader: Reader


@dataclass(frozen=True)
class TokenCheckJob(Job[CheckPassed]):
    """Check that all sources make the same tokens of `text`, and those that tasks need (`tasks`). No weight is read.

    `reference` is a file of log-probabilities: its tokens must be those of the text too, cut into windows of `window`
    tokens with `stride`. A file of the user that cannot be opened is left out, because its own measurements will say
    why.
    """

    kind = "tokens"
    result_type = CheckPassed

    sources: tuple[TokenSource, ...]
    text: TextFile | None = None
    tasks: bool = False
    reference: Artefact | None = None
    window: int = 512
    stride: int | None = None

    def run(self, site: Site) -> CheckPassed:
        from sweep.measure.texts import model_text
        from sweep.measure.token_streams import MARKERS, difference

        sample = presets.TOKEN_SAMPLE.read_bytes().decode()  # with its line ends
        compared = [(sample, False), (MARKERS, True)] if self.tasks else []
        with ExitStack() as opened:
            first, vocabulary = None, None
            for source in self.sources:
                try:
                    other = opened.enter_context(_vocabulary(source, site))
                except InputError:
                    if source.reader is not Reader.FILE:
                        raise
                    continue
                if first is None or vocabulary is None:
                    first, vocabulary = source, other
                    if self.text is not None:
                        text = model_text(site.path(self.text.file), self.text.form, other)
                        compared.insert(0, (text, self.text.form.parses_special))
                        self._require_reference(other, text, self.text.form.parses_special, site)
                    continue
                self._require_template(first, vocabulary, source, other, site)
                for text, parse_special in compared:
                    found = difference(vocabulary, other, text, parse_special=parse_special)
                    if found is not None:
                        raise InputError(
                            f"{source.variant} and {first.variant} have different tokenizers, so their figures cannot"
                            f" be compared: {found.describe(first.variant, source.variant)}; leave one of the two out"
                        )
        return CheckPassed()

    def _require_template(
        self, first: TokenSource, vocabulary: Vocabulary, source: TokenSource, other: Vocabulary, site: Site
    ) -> None:
        """Raise InputError if two models write the conversations of the text differently."""
        from sweep.measure.texts import model_text

        if self.text is None or self.text.form is not TextForm.CONVERSATIONS:
            return
        path, form = site.path(self.text.file), self.text.form
        if other.chat_template == vocabulary.chat_template:
            return
        if model_text(path, form, other) != model_text(path, form, vocabulary):
            raise InputError(
                f"{source.variant} and {first.variant} have different chat templates, which write the conversations of"
                f" {path.name} differently; leave one of the two out"
            )

    def _require_reference(self, vocabulary: Vocabulary, text: str, parse_special: bool, site: Site) -> None:
        """Raise InputError if the file of log-probabilities has other tokens. A damaged one is left to the cells."""
        from sweep.measure.perplexity import windows_of
        from sweep.measure.reference import open_reference

        if self.reference is None:
            return
        try:
            known = open_reference(site.path(self.reference))
        except InputError:
            return
        bos = vocabulary.bos_id if vocabulary.add_bos else None
        tokens = vocabulary.tokenize(text, add_special=True, parse_special=parse_special)
        windows = windows_of(tokens, self.window, self.stride, bos)
        known.require(windows.head(known.windows), vocabulary.n_vocab, vocabulary)


@contextmanager
def _vocabulary(source: TokenSource, site: Site) -> Iterator[Vocabulary]:
    path = site.path(source.file)
    if source.reader is Reader.TORCH:
        from sweep.backends.torch_vocabulary import TorchVocabulary  # loads transformers

        yield TorchVocabulary.open(path)
        return
    from converters.llamacpp.ghost import vocabulary
    from converters.llamacpp.model import Model
    from converters.resolver import open_source

    with ExitStack() as opened:
        if source.reader is Reader.EXPORT:
            path = opened.enter_context(vocabulary(open_source(path, source.model, requantize=True).metadata))
        yield opened.enter_context(Model(path, vocabulary=True))
