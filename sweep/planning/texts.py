"""The texts for perplexity and for calibration: built in, published data sets, or the user's files."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import presets
from converters.checkpoint import read_config
from converters.errors import InputError
from sweep.artefact import Artefact
from sweep.jobs.input_checks import TextDataset
from sweep.jobs.inputs import TextFile
from sweep.measure.image_conversations import images_identity
from sweep.measure.plain_text import read_text, text_bytes
from sweep.measure.text_form import TextForm
from sweep.measure.texts import form_of, marker_in
from sweep.planning.item_files import TASK, items_file, names_items
from sweep.planning.model import ResolvedModel
from sweep.planning.piped_text import is_pipe, saved_text

_WIKITEXT = "wikitext-2"
"""The name of the published text for --perplexity. That for --calibration is another split of the same text."""


@dataclass(frozen=True)
class FoundText:
    """A text. `dataset` is the published data set that it is downloaded from before the run; None for a local file.

    `note` is a line for people about how the text is read.
    """

    file: TextFile
    dataset: TextDataset | None = None
    note: str | None = None

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def how_read(self) -> str:
        """The part of the file's identity that says how the text is read."""
        return "".join(self.file.identity.partition("+")[1:])


def text_for(model: ResolvedModel, chosen: Path | None, parse_special: bool, workspace: Path) -> FoundText:
    """The text for perplexity: `chosen`, or the built-in model's own text, or WikiText-2. Raises InputError.

    `chosen` is a file, or the name of a built-in model or of WikiText-2 for that text. `parse_special`: read special
    tokens in the text as such. `workspace` is where a text from a pipe is saved.
    """
    if chosen is not None and is_pipe(chosen):
        file = saved_text(chosen, workspace / "texts", "--perplexity")
        return _local("text from a pipe", file.resolve(), parse_special)
    builtin, name = model.builtin if chosen is None else None, None if chosen is None else str(chosen)
    if chosen is not None and chosen.is_file():
        found = _local(chosen.name, chosen.resolve(), parse_special)
        if found.file.form is TextForm.IMAGES:
            raise InputError(f"{chosen}: has images; --perplexity takes a text")
        return found
    if name is not None:
        builtins = presets.builtin_models()
        if name not in (*builtins, _WIKITEXT):
            known = " or ".join(builtins)
            raise InputError(
                f"{chosen}: there is no such text file (--perplexity); give a file, {_WIKITEXT}, or {known}"
            )
        builtin = builtins.get(name)
    if builtin is not None:
        return _local(f"{builtin.name} test text", builtin.text, parse_special)
    return _published("WikiText-2 test", presets.defaults()["text"], "--perplexity", parse_special)


def texts_for(
    model: ResolvedModel, chosen: Sequence[Path], parse_special: bool, workspace: Path
) -> tuple[FoundText, ...]:
    """The texts for perplexity, at least one; see `text_for`. Raises InputError, also if two are the same."""
    found = [text_for(model, one, parse_special, workspace) for one in chosen or (None,)]
    seen: dict[str, FoundText] = {}
    for one in found:
        if one.file.identity in seen:
            raise InputError(f"{one.name} is the same text as {seen[one.file.identity].name}; give it once")
        seen[one.file.identity] = one
    return _with_own_names(_with_own_names(found, _in_folder), _with_hash)


def _with_own_names(texts: Iterable[FoundText], rename: Callable[[TextFile], str]) -> tuple[FoundText, ...]:
    """The texts; those that share a name get another, if that tells them apart."""
    texts = tuple(texts)
    shared = {name for name, count in Counter(one.name for one in texts).items() if count > 1}
    new = [rename(one.file) if one.name in shared else one.name for one in texts]
    return tuple(
        one if new.count(name) > 1 else replace(one, file=replace(one.file, name=name))
        for one, name in zip(texts, new, strict=True)
    )


def _in_folder(text: TextFile) -> str:
    return f"{Path(text.file.name).parent.name}/{text.name}"


def _with_hash(text: TextFile) -> str:
    """The name with the beginning of the hash of the content: what came through a pipe has no name of its own."""
    return f"{text.name} {text.identity[:8]}"


def calibration_text(
    chosen: str | None,
    builtin: presets.BuiltinModel | None,
    parse_special: bool = False,
    *,
    workspace: Path,
    task_data: Path | None = None,
) -> FoundText:
    """The text that int8 recipes are calibrated with: `chosen`, or the built-in model's own text, or the default text.

    `chosen` is a file, the name of a built-in model for its text, the name of a text in presets/defaults.toml, or
    task:NAME for the training items of a task with images whose data are in `task_data`. `parse_special`: read special
    tokens in the text as such. `workspace` is where items of a Parquet file are saved. Raises InputError.
    """
    if chosen is not None and names_items(chosen):
        name = chosen if chosen.startswith(TASK) else Path(chosen).name
        return _local(name, items_file(chosen, workspace / "texts", task_data).resolve(), parse_special)
    known: dict[str, dict[str, Any]] = presets.defaults()["calibration_texts"]
    builtins = presets.builtin_models()
    if chosen is not None and (file := Path(chosen).expanduser()).is_file():
        return _calibration(_local(file.name, file.resolve(), parse_special))
    if chosen is None:
        chosen = builtin.name if builtin is not None else next(iter(known))
    if chosen in builtins:
        own = builtins[chosen]
        images = own.conversations if own == builtin else None  # another model may take none
        return _local(f"{chosen}'s own text", images or own.calibration, parse_special)
    if chosen not in known:
        near = difflib.get_close_matches(chosen, [*known, *builtins], n=1) or [*known, *builtins]
        raise InputError(f"{chosen}: there is no such text (--calibration); give a file or {', '.join(near)}")
    return _published(chosen, known[chosen], "--calibration", parse_special)


def text_only_warning(text: FoundText | None, model: Path) -> str | None:
    """A line for recipes that read this calibration text, if it has no images but the model (a checkpoint directory)
    takes them; otherwise None."""
    if text is None or text.file.form is TextForm.IMAGES or not model.is_dir():
        return None
    if not isinstance(read_config(model).get("vision_config"), dict):
        return None
    return (
        f"{text.name}: has no images, but this model takes them. Recipes that smooth, or that have static scales, then"
        " have up to a thousand times the KL divergence on images; give --calibration a .jsonl file of conversations"
        " with images"
    )


def _local(name: str, file: Path, parse_special: bool) -> FoundText:
    form = form_of(file, parse_special)
    content = hashlib.sha256(text_bytes(file)).hexdigest()
    if form is TextForm.IMAGES:
        content = hashlib.sha256(f"{content} {images_identity(file)}".encode()).hexdigest()
    identity = content + form.key
    text = TextFile(name + form.suffix, Artefact.of(file), identity, form, file.stat().st_size)
    return FoundText(text, note=form_note(file, form))


def _calibration(text: FoundText) -> FoundText:
    """The text with an identity of its own if int8 recipes once read it otherwise: they parsed all special tokens."""
    if text.file.form is not TextForm.PLAIN or text.note is None:
        return text
    return replace(text, file=replace(text.file, identity=f"{text.file.identity}+plain"))


def form_note(file: Path, form: TextForm) -> str | None:
    """A line that says how a file is read, if that may surprise; None for a plain text without special tokens."""
    if form is TextForm.CONVERSATIONS:
        return f"{file.name}: conversations, written in the model's chat template; special tokens are read as such"
    if form is TextForm.IMAGES:
        return f"{file.name}: conversations with images; each one is a sample, and special tokens are read as such"
    marker = marker_in(read_text(file))
    if marker is None:
        return None
    if form is TextForm.SPECIAL:
        return f"{file.name}: {marker} and other special tokens are read as such"
    return (
        f"{file.name}: {marker} and other special tokens are read as plain text, as llama-perplexity does; to read them"
        " as special tokens give --parse-special"
    )


def _published(name: str, hub_text: Mapping[str, Any], option: str, parse_special: bool) -> FoundText:
    """A text in a data set on the hub. `option` is the option that takes a file instead."""
    dataset = hub_text["dataset"], hub_text["name"], hub_text["split"]
    file = Artefact(f"texts/{hub_text['name']}-{hub_text['split']}.txt")
    form = TextForm.SPECIAL if parse_special else TextForm.PLAIN
    text = TextFile(name + form.suffix, file, "/".join(dataset) + form.key, form, hub_text.get("bytes", 0))
    return FoundText(text, TextDataset(*dataset, file, option))
