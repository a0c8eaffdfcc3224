"""Known faults of GGUF files that other programs wrote, and their repairs.

llama.cpp does not load a file with one of these faults. A repair changes names and metadata, never a weight. Source of
what Ollama writes: its converter (convert/convert_qwen3next.go) and the changes that it makes while it loads such files
(llama/compat/llama-ollama-compat.cpp).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from converters.llamacpp.container import Field, ValueType, numbers, string, tensor_order, uint32

_NEXTN = "nextn_predict_layers"
_DELTANET = ("qwen3next", "qwen35", "qwen35moe")


@dataclass(frozen=True)
class GGUFContents:
    """What a GGUF file says about its model: its metadata, and its tensors as name in use -> name in the file."""

    architecture: str
    metadata: Mapping[str, Field]
    names: Mapping[str, str]

    def field(self, key: str) -> Field | None:
        """The value of `key`, which is written without the architecture's name."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def number(self, key: str) -> int:
        """The whole number `key`; 0 if it is missing or something else."""
        field = self.field(key)
        return field.value if field is not None and field.type is ValueType.UINT32 else 0

    def with_fields(self, **fields: Field) -> "GGUFContents":
        """These contents with other values of keys; their names are without the architecture's."""
        own = {f"{self.architecture}.{key}": field for key, field in fields.items()}
        return replace(self, metadata={key: own.get(key, field) for key, field in self.metadata.items()} | own)


Change = Callable[[GGUFContents], GGUFContents]


@dataclass(frozen=True)
class Repair:
    """A fault in words, the repair in words, and the repair, which leaves contents without the fault as they are.

    `architectures` are those in which this is a fault; empty: all.
    """

    fault: str
    repair: str
    change: Change
    architectures: tuple[str, ...] = ()

    def __call__(self, contents: GGUFContents) -> GGUFContents:
        known = not self.architectures or contents.architecture in self.architectures
        return self.change(contents) if known else contents


def without_mtp(contents: GGUFContents) -> GGUFContents:
    """The contents without multi-token prediction (MTP) layers, which come after all other layers."""
    blocks, mtp = contents.number("block_count"), contents.number(_NEXTN)
    if not 0 < mtp < blocks:
        return contents
    prefix = f"{contents.architecture}."
    metadata = {
        key: _shortened(field, blocks - mtp) if key.startswith(prefix) and field.count == blocks else field
        for key, field in contents.metadata.items()
        if key != prefix + _NEXTN
    }
    names = {name: stored for name, stored in contents.names.items() if tensor_order(name)[0] < blocks - mtp}
    return replace(contents, metadata=metadata, names=names).with_fields(block_count=uint32(blocks - mtp))


def _shortened(field: Field, count: int) -> Field:
    """The first values of an array that has one for each layer."""
    if field.item_type in (None, ValueType.STRING):
        return field
    return numbers(field.item_type, field.value[:count])


def _renamed(pattern: str, replacement: str) -> Change:
    def change(contents: GGUFContents) -> GGUFContents:
        names = {re.sub(pattern, replacement, name): stored for name, stored in contents.names.items()}
        return replace(contents, names=names) if len(names) == len(contents.names) else contents

    return change


def _left_out(*prefixes: str) -> Change:
    def change(contents: GGUFContents) -> GGUFContents:
        names = {name: stored for name, stored in contents.names.items() if not name.startswith(prefixes)}
        return replace(contents, names=names)

    return change


def _one_head_count(contents: GGUFContents) -> GGUFContents:
    field = contents.field("attention.head_count_kv")
    if field is None or field.item_type in (None, ValueType.STRING):
        return contents
    counts = set(field.value)
    if 0 not in counts or len(counts) != 2 or min(counts) < 0:
        return contents
    return contents.with_fields(**{"attention.head_count_kv": uint32(max(counts))})


def _qwen2vl(contents: GGUFContents) -> GGUFContents:
    old, new = f"{contents.architecture}.", "qwen2vl."
    metadata = {
        new + key.removeprefix(old) if key.startswith(old) else key: contents.metadata[key] for key in contents.metadata
    }
    metadata["general.architecture"] = string(new.removesuffix("."))
    sections = metadata.get(f"{new}rope.mrope_section")
    if sections is not None:  # with 3 entries, which the next repairs complete
        metadata.setdefault(f"{new}rope.dimension_sections", sections)
    return GGUFContents(new.removesuffix("."), metadata, contents.names)


def _qwen3vl_keys(contents: GGUFContents) -> GGUFContents:
    if contents.field("rope.dimension_sections") is not None or contents.number("attention.key_length") != 128:
        return contents
    features = contents.field("vision.deepstack_visual_indexes")
    count = contents.field("n_deepstack_layers") or uint32(0 if features is None else features.count)
    sections = numbers(ValueType.INT32, [24, 20, 20, 0])  # of all published models, whose heads have 128 elements
    return contents.with_fields(**{"rope.dimension_sections": sections, "n_deepstack_layers": count})


def _four_sections(contents: GGUFContents) -> GGUFContents:
    field = contents.field("rope.dimension_sections")
    if field is None or field.item_type in (None, ValueType.STRING) or field.count != 3:
        return contents
    return contents.with_fields(**{"rope.dimension_sections": numbers(field.item_type, [*field.value, 0])})


def _without_absent_mtp(contents: GGUFContents) -> GGUFContents:
    first = contents.number("block_count") - contents.number(_NEXTN)
    present = any(tensor_order(name)[0] >= first for name in contents.names)
    return contents if present else without_mtp(contents)


REPAIRS = (
    Repair(
        "its architecture is called qwen25vl, as Ollama writes it",
        "it is called qwen2vl, with the keys of that name",
        _qwen2vl,
        ("qwen25vl",),
    ),
    Repair(
        "rope.dimension_sections is missing, as in Ollama's Qwen3-VL",
        "it gets the sections of all published models, 24, 20, 20 and 0",
        _qwen3vl_keys,
        ("qwen3vl", "qwen3vlmoe"),
    ),
    Repair(
        "the time-step biases are called blk.N.ssm_dt, as Ollama writes them",
        "they are renamed to blk.N.ssm_dt.bias",
        _renamed(r"^(blk\.\d+\.ssm_dt)$", r"\1.bias"),
        _DELTANET,
    ),
    Repair(
        "attention.head_count_kv has a 0 for each layer without attention, as Ollama writes it",
        "all layers get the number of the layers with attention",
        _one_head_count,
        _DELTANET,
    ),
    Repair("rope.dimension_sections has 3 entries, as Ollama writes it", "a 0 is added", _four_sections),
    Repair(
        "it contains a vision tower (v.*, mm.*), which llama.cpp reads from a file of its own",
        "it is left out, and the model reads text only",
        _left_out("v.", "mm."),
    ),
    Repair(
        "its multi-token prediction layers have the names of a checkpoint (mtp.*)",
        "they are left out, as by --no-mtp",
        _left_out("mtp."),
    ),
    Repair(
        f"{_NEXTN} counts multi-token prediction layers that the file does not contain",
        "they are not counted any more, as by --no-mtp",
        _without_absent_mtp,
    ),
)
"""All known faults. A file may have several."""


def repaired(contents: GGUFContents) -> tuple[GGUFContents, tuple[Repair, ...]]:
    """The contents after all repairs, and the repairs that changed something."""
    made = []
    for repair in REPAIRS:
        changed = repair(contents)
        if changed != contents:
            made.append(repair)
        contents = changed
    return contents, tuple(made)
