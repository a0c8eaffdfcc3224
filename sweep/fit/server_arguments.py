"""The arguments of llama-server and llama-cli: one place for every command that bitsweep prints.

`-hf` and `--hf-file` (llama.cpp, common/arg.cpp and download.cpp): a file is taken from a repository on the hub by its
exact name, with its other parts. A quant after the repository (`REPO:Q4_K_M`) takes the first file whose path contains
it, which may be another one, such as a file of the same quant in a mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from converters.hub import HUB, HubFile
from presets.long_context import Yarn

BATCH, UBATCH = 2048, 512  # llama.cpp's defaults


@dataclass(frozen=True)
class ServerSettings:
    """How llama-server runs a file. `context` is of all sequences together; None leaves an option out."""

    context: int
    sequences: int | None = None
    gpu_layers: int | None = None
    cpu_moe: int = 0
    tensor_split: Sequence[float] = ()
    overrides: str = ""  # of tensors' places, for -ot
    kv_types: tuple[str, str] = ("f16", "f16")
    batch: int = BATCH
    ubatch: int = UBATCH
    flash_attention: bool | None = None
    yarn: Yarn | None = None


def server_words(file: str, settings: ServerSettings, projector: str = "") -> list[str]:
    """The words after `llama-server`. `projector` is a projector file, named like `file`; empty: no images."""
    words = [*_model_words(file, _image_words(projector)), "-c", str(settings.context)]
    for flag, value in (("-np", settings.sequences), ("-ngl", settings.gpu_layers)):
        words += [] if value is None else [flag, str(value)]
    words += ["-ncmoe", str(settings.cpu_moe)] if settings.cpu_moe else []
    words += ["-ts", ",".join(f"{share:g}" for share in settings.tensor_split)] if settings.tensor_split else []
    words += ["-ot", settings.overrides] if settings.overrides else []
    for flag, kind in zip(("-ctk", "-ctv"), settings.kv_types, strict=True):
        words += [flag, kind] if kind != "f16" else []
    for flag, size, default in (("-b", settings.batch, BATCH), ("-ub", settings.ubatch, UBATCH)):
        words += [flag, str(size)] if size != default else []
    if settings.yarn is not None:
        words += ["--rope-scaling", "yarn", "--rope-scale", str(settings.yarn.factor)]
        words += ["--yarn-orig-ctx", str(settings.yarn.original)]
    if settings.flash_attention is not None:
        words += ["-fa", "on" if settings.flash_attention else "off"]
    return words


def _image_words(projector: str) -> list[str]:
    if projector.startswith(HUB):
        return ["--mmproj-url", HubFile.parse(projector.removeprefix(HUB)).url]
    return ["--mmproj", f"./{projector}" if projector.startswith("-") else projector] if projector else []


def _model_words(file: str, images: Sequence[str]) -> list[str]:
    """The words that name the file, a path or `hub:OWNER/REPO/FILE.gguf`, and `images`, those of its projector file.

    A repository's vision projector would be downloaded and loaded too if there is one, into memory that was not
    counted. A certain revision has to be downloaded first.
    """
    if file.startswith(HUB):
        remote = HubFile.parse(file.removeprefix(HUB))
        if remote.revision is None:
            return ["-hf", remote.repository, "--hf-file", remote.names[0], *(images or ["--no-mmproj"])]
        file = remote.names[0]
    return ["-m", f"./{file}" if file.startswith("-") else file, *images]  # otherwise it would be an option


def with_file(words: Sequence[str], file: str) -> list[str]:
    """The words of `server_words` with another file of the text model."""
    place = next((words.index(flag) for flag in ("--mmproj", "--mmproj-url") if flag in words), None)
    images = [] if place is None else words[place : place + 2]
    return [*_model_words(file, images), *words[words.index("-c") :]]
