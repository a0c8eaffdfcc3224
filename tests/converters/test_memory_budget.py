"""The resident memory of an export, measured from outside, stays within its budget."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from converters.errors import InputError
from converters.export import export
from converters.resolver import open_source

ROOT = Path(__file__).parents[2]
MIB = 1 << 20

EXPORT = """
import sys
from pathlib import Path
from converters.export import export
from converters.resolver import open_source
targets = {quant: Path(sys.argv[2]) / quant for quant in sys.argv[4].split(",")}
export(open_source(sys.argv[1]), targets, memory_budget=int(sys.argv[3]))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def sparse_checkpoint(tiny: Path, directory: Path, layers: int) -> int:
    """Write a sparse checkpoint with `tiny`'s tokenizer and wider and more layers, all weights 0. Returns its bytes."""
    directory.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((tiny / name).read_bytes())
    config = json.loads((tiny / "config.json").read_text())
    hidden, inner, heads, kv, head = 2048, 8192, 16, 8, 128
    config |= {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "head_dim": head}
    config |= {"num_attention_heads": heads, "num_key_value_heads": kv, "tie_word_embeddings": True}
    config.pop("layer_types", None)
    (directory / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for layer in range(layers):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (hidden,),
                "post_attention_layernorm": (hidden,),
                "self_attn.q_norm": (head,),
                "self_attn.k_norm": (head,),
                "self_attn.q_proj": (heads * head, hidden),
                "self_attn.k_proj": (kv * head, hidden),
                "self_attn.v_proj": (kv * head, hidden),
                "self_attn.o_proj": (hidden, heads * head),
                "mlp.gate_proj": (inner, hidden),
                "mlp.up_proj": (inner, hidden),
                "mlp.down_proj": (hidden, inner),
            }.items()
        }
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + end)
    return end


@pytest.mark.slow
def test_a_checkpoint_twenty_times_the_memory_budget_is_exported_within_it(tiny: Path, tmp_path: Path) -> None:
    budget = 64 * MIB
    size = sparse_checkpoint(tiny, tmp_path / "model", 12)
    assert size > 20 * budget
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", EXPORT, tmp_path / "model", tmp_path / "out", budget, "Q8_0,Q4_0"]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 <= budget


def test_a_budget_too_small_for_a_row_is_rejected(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"budget of 1000000 bytes is too small: the program itself takes \d+"):
        export(open_source(tiny), {"Q8_0": tmp_path / "a.gguf"}, memory_budget=10**6)
    assert list(tmp_path.iterdir()) == []


def test_a_small_budget_does_not_change_the_file(tiny: Path, tmp_path: Path) -> None:
    """The budget is for an export in a process that has exported before, so that llama.cpp's own memory is known."""
    little = "memory_budget=psutil.Process().memory_info().rss + 5 * 10**6"
    once = "export(open_source(sys.argv[1]), {'Q4_K_M': Path(sys.argv[2]) / 'first'})\n"
    script = "import psutil" + EXPORT.replace("export(open", once + "export(open").replace(
        "memory_budget=int(sys.argv[3])", little
    )
    (tmp_path / "small").mkdir()
    command = [sys.executable, "-c", script, str(tiny), str(tmp_path / "small"), "0", "Q4_K_M"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    export(open_source(tiny), {"Q4_K_M": tmp_path / "plain"})
    assert (tmp_path / "small/Q4_K_M").read_bytes() == (tmp_path / "plain").read_bytes()
