"""Projector files (mmproj) that exist: whether one belongs to a text model, and the one beside a text model's file.

llama.cpp compares only the width of the embeddings, and reads wrong images with the tower of another model of the same
width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from converters.architectures import ARCHITECTURES
from converters.architectures.tower import projector_type
from converters.errors import InputError
from converters.llamacpp.container import Field, GGUFHeader, text
from converters.llamacpp.reader import read_header
from converters.published import quant_in

DEFAULT_TYPE = "F16"
"""The type of projector files unless another one is named, as of llama.cpp's converter."""


def read_projector(path: Path, structure: Mapping[str, Field], model: str) -> GGUFHeader:
    """The header of the projector file `path`, for the text model with these metadata, which messages call `model`.

    Raises InputError if the file is no projector file, has other tensors than its header says, or belongs to another
    model.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file; make one from the checkpoint by `sweep convert CHECKPOINT --mmproj F16`"
        )
    header = read_header(path)
    name = text(structure, "general.architecture")
    tower = next((family.tower for family in ARCHITECTURES if family.name == name), None)
    kind = projector_type(header)
    if not kind:
        raise InputError(f"{path}: is not a projector file (its architecture is {header.architecture or 'unknown'!r})")
    if tower is None:
        raise InputError(f"{path}: {model} is a text model ({name}), which has no projector")
    if kind != tower.projector:
        raise InputError(f"{path}: is a projector of kind {kind!r}; {model} ({name}) needs {tower.projector!r}")
    width, deepstack = (_number(structure, f"{name}.{key}") for key in ("embedding_length", "n_deepstack_layers"))
    vision = tower.vision_config(header)
    if vision.get("out_hidden_size") != width:
        raise InputError(
            f"{path}: belongs to another model: its embeddings have {vision.get('out_hidden_size')} values, those of"
            f" {model} {width}"
        )
    layers = len(vision.get("deepstack_visual_indexes", ()))
    if layers != deepstack:
        raise InputError(
            f"{path}: belongs to another model: it has {layers} deepstack mergers, {model} expects {deepstack}"
        )
    try:
        expected = {weight.name: weight.shape for weight in tower.weights(vision, width)}
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix('config.json: ')}") from error
    found = {tensor.name: tensor.shape for tensor in header.tensors}
    for tensor in sorted(expected.keys() | found.keys()):
        if expected.get(tensor) != found.get(tensor):
            raise InputError(
                f"{path}: tensor {tensor[:80]!r} has shape {found.get(tensor) or '(none)'}; by the file's header it"
                f" should be {expected.get(tensor) or '(none)'}"
            )
    return header


def projectors_beside(model: Path) -> Sequence[Path]:
    """The projector files in the directory of a text model's file, by their names."""
    return sorted(path for path in model.parent.glob("*mmproj*.gguf") if path != model)


def of_type(files: Sequence[Path], quant: str) -> Path | None:
    """The one of several projector files whose name ends with this type; None if there is none, or more than one."""
    found = [path for path in files if (quant_in(path.stem) or "").upper() == quant.upper()]
    return found[0] if len(found) == 1 else None


def _number(structure: Mapping[str, Field], key: str) -> int:
    field = structure.get(key)
    return field.value if field is not None and isinstance(field.value, int) else 0
