"""Files that run a variant elsewhere: a script for llama-server, a Modelfile for Ollama, settings for LM Studio.

- Ollama's Modelfile: https://docs.ollama.com/modelfile. `num_gpu` is the number of layers on GPUs. The type of the KV
  cache is a setting of the whole server, so it is a comment.
- LM Studio's settings of one model: the file that "My Models" writes in its folder
  `.internal/user-concrete-model-default-config/PUBLISHER/MODEL/FILE.gguf.json`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from converters.errors import InputError
from converters.gguf_source import model_stem, part_count
from converters.hub import HubFile
from converters.shell import join
from sweep import format as fmt
from sweep.analysis.candidate import Candidate
from sweep.devices import ALL_LAYERS


@dataclass(frozen=True)
class ServedFile:
    """How llama-server runs a variant, from its command. `get` makes or downloads the file; empty if it is there.
    `all_layers` is the number of the model's layers, with the output; None if it is not known."""

    variant: str
    words: tuple[str, ...]
    get: str
    all_layers: int | None = None

    def value(self, *flags: str) -> str | None:
        """The word after the first of these flags; None if it is not among the words."""
        found = next((flag for flag in flags if flag in self.words), None)
        return None if found is None else self.words[self.words.index(found) + 1]

    @property
    def file(self) -> str:
        """The path of the GGUF file. A file on a hub is in the current directory, once `get` has downloaded it."""
        return self.value("-m") or str(self.value("--hf-file"))

    @property
    def stem(self) -> str:
        """The file's name without its ending, and without the number of a part."""
        return model_stem(Path(self.file))

    @property
    def context(self) -> int:
        return int(self.value("-c") or 0)

    @property
    def layers(self) -> int | None:
        """The layers on GPUs; None: as many as fit."""
        found = self.value("-ngl")
        return None if found is None else int(found)

    @property
    def experts(self) -> int:
        """The number of layers whose experts stay in RAM."""
        return int(self.value("-ncmoe") or 0)

    @property
    def caches(self) -> tuple[str, str]:
        """The types of K and of V in the KV cache."""
        return self.value("-ctk") or "f16", self.value("-ctv") or "f16"


def served_file(one: Candidate) -> ServedFile:
    """How a candidate runs. Raises InputError if llama.cpp does not run it."""
    words = tuple(shlex.split(one.commands.run))
    if not words or words[0] != "llama-server":
        raise InputError(f"{one.variant}: llama.cpp does not run it, so there is nothing to export")
    get = [one.commands.get] if one.commands.get else []
    if "-hf" in words:
        repository, file = words[words.index("-hf") + 1], words[words.index("--hf-file") + 1]
        get.append(join(HubFile.parse(f"{repository}/{file}").download_words))
    if "--mmproj-url" in words:
        get.append(join(["curl", "-LO", words[words.index("--mmproj-url") + 1]]))
    return ServedFile(one.variant, words, " && ".join(get), one.commands.layers)


def llama_server(served: ServedFile) -> str:
    """A shell script."""
    return "\n".join(["#!/bin/sh", *_head(served), f'exec {join(served.words)} "$@"', ""])


def modelfile(served: ServedFile) -> str:
    """A Modelfile for `ollama create NAME -f FILE`. Ollama reads the chat template in the GGUF file."""
    lines = _head(served)
    cache = served.caches[0]
    if served.caches != ("f16", "f16"):
        lines.append(f"# KV cache: start the server with OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE={cache}")
    if served.experts:
        lines.append(f"# The experts of {served.experts} layers belong in RAM; Ollama moves only whole layers there.")
    projector = served.value("--mmproj") or PurePosixPath(served.value("--mmproj-url") or "").name
    file = served.file
    if part_count(Path(file).name) > 1:
        file = str(Path(file).with_name(f"{served.stem}.gguf"))
        merge = join(["llama-gguf-split", "--merge", served.file, file])
        lines.append(f"# Ollama reads no files in parts. Join them: {merge}")
    lines += [f"FROM {_path(one)}" for one in (file, projector) if one]
    lines.append(f"PARAMETER num_ctx {served.context}")
    layers = served.layers
    if layers is not None and layers < ALL_LAYERS and not served.experts:
        lines.append(f"PARAMETER num_gpu {layers}")
    return "\n".join([*lines, ""])


def lm_studio(served: ServedFile) -> str:
    """The settings with which LM Studio loads the model, as JSON."""
    fields: list[tuple[str, Any]] = [("llm.load.contextLength", served.context)]
    layers = served.layers
    every = ALL_LAYERS if served.all_layers is None else served.all_layers
    if layers is not None and (layers == 0 or layers >= every or served.all_layers is not None):
        fields.append(("llm.load.llama.acceleration.offloadRatio", round(min(1.0, layers / every), 4)))
    if served.experts and served.all_layers is not None:
        ratio = min(1.0, served.experts / max(every - 1, 1))  # the output counts as a layer, but it has no experts
        fields.append(("llm.load.numCpuExpertLayersRatio", round(ratio, 4)))
    if served.caches != ("f16", "f16"):
        fields.append(("llm.load.llama.flashAttention", True))
        for letter, kind in zip("kv", served.caches, strict=True):
            key = f"llm.load.llama.{letter}CacheQuantizationType"
            fields.append((key, {"checked": kind != "f16", "value": kind}))
    content = {
        "preset": "",
        "operation": {"fields": []},
        "load": {"fields": [{"key": key, "value": value} for key, value in fields]},
    }
    return json.dumps(content, indent=2) + "\n"


def _head(served: ServedFile) -> list[str]:
    """Comments: the variant, and how to get its file."""
    get = [f"# First get the file: {fmt.printable(served.get)}"] if served.get else []
    return [f"# {fmt.plain(served.variant)}", *get]


def _path(file: str) -> str:
    """A path for FROM. One that does not begin with . or / would be the name of a model."""
    return file if Path(file).is_absolute() else f"./{file}"


@dataclass(frozen=True)
class ServingKind:
    """A kind of file: the end of its name, its content, and what to do with it (after the file's name)."""

    suffix: str
    content: Callable[[ServedFile], str]
    usage: Callable[[str, ServedFile], str]


def _studio_usage(file: str, served: ServedFile) -> str:
    name = Path(served.file).name
    return (
        f"copy it to ~/.lmstudio/.internal/user-concrete-model-default-config/PUBLISHER/MODEL/{name}.json, where "
        f"PUBLISHER/MODEL is the folder of {name} in LM Studio"
    )


SERVING_KINDS: Mapping[str, ServingKind] = {
    "llama-server": ServingKind(".sh", llama_server, lambda file, _: f"run it with sh {file}"),
    "ollama": ServingKind(".Modelfile", modelfile, lambda file, one: f"ollama create {_tag(one)} -f {file}"),
    "lmstudio": ServingKind(".lmstudio.json", lm_studio, _studio_usage),
}
"""By the name in --export."""


def _tag(served: ServedFile) -> str:
    """A name that Ollama accepts: NAME:TAG of small letters, digits, dots, dashes and underscores."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in served.stem).lower()


def parse_export(text: str) -> tuple[str, str | None]:
    """The kind and the variant of KIND or KIND:VARIANT; None: the recommended one. Raises InputError."""
    kind, _, variant = text.partition(":")
    if kind not in SERVING_KINDS:
        known: Sequence[str] = list(SERVING_KINDS)
        raise InputError(
            f"--export {text!r}: there is no such kind; give {', '.join(known[:-1])} or {known[-1]}, or for a certain "
            f"variant {known[0]}:Q4_K_M"
        )
    return kind, variant or None
