"""LoadOptions reach llama.cpp, as its log shows, and do not change logits."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_tokenizer
from families import make

from converters.errors import InputError
from converters.export import export, open_source
from converters.llamacpp.bindings import lib
from converters.llamacpp.load import LoadOptions
from converters.llamacpp.log import capture
from converters.llamacpp.model import ContextOptions, Model


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("moe")
    make_tokenizer(make("qwen3moe", directory / "model"))
    export(open_source(directory / "model"), {"F32": directory / "m.gguf"})
    return directory / "m.gguf"


def test_the_experts_of_the_first_layers_stay_in_ram(moe: Path) -> None:
    params = lib.llama_model_default_params()
    params.load_mode = lib.llama_load_mode_from_str(b"none")
    kept = LoadOptions(gpu_layers=99, cpu_moe=1).apply(params)
    with capture() as log:
        model = lib.llama_model_load_from_file(os.fsencode(moe), params)
    del kept
    assert model
    lib.llama_model_free(model)
    moved = {line.split()[1] for line in log.text.splitlines() if "buffer type overridden to CPU" in line}
    assert moved == {f"blk.0.ffn_{name}_exps.weight" for name in ("gate", "up", "down")}


def test_logits_do_not_depend_on_where_experts_are(moe: Path) -> None:
    tokens = np.arange(20, dtype=np.int32)
    found = []
    for options in (LoadOptions(), LoadOptions(gpu_layers=1, cpu_moe=2, tensor_split=(1.0,))):
        with Model(moe, options) as model, model.context(ContextOptions(256, n_threads=1)) as context:
            logits = context.decode(tokens, tokens, np.zeros(20, np.int32), tokens == 19)
            found.append(logits.copy())
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def test_more_shares_than_devices_are_rejected(moe: Path) -> None:
    with pytest.raises(InputError, match=r"--tensor-split has 99 shares, but llama.cpp supports at most \d+ devices"):
        Model(moe, LoadOptions(tensor_split=(1.0,) * 99))
