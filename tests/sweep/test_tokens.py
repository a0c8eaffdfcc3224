"""The models of a run, and a file of log-probabilities, must make the same tokens of a text before any work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import QWEN35_SPLIT, make_tokenizer
from command_line import call
from families import make

from converters.errors import InputError
from converters.export import export, open_source
from converters.llamacpp.container import encode_header, string
from converters.llamacpp.model import Model
from converters.llamacpp.reader import read_header
from int8.calibrate import calibrate
from int8.checkpoint import CalibrationRecord, save
from int8.model import open_model
from int8.recipe import NAMED
from sweep.artefact import Artefact
from sweep.backends.llama import LlamaBackend
from sweep.backends.torch import TorchBackend
from sweep.backends.torch_checkpoints import open_fake_quant
from sweep.jobs.base import Site
from sweep.jobs.inputs import TextFile
from sweep.jobs.token_check import Reader, TokenCheckJob, TokenSource
from sweep.measure.basefile import BaseFileWriter
from sweep.measure.perplexity import cut_windows, windows_of
from sweep.measure.reference import ReferenceWriter, open_reference
from sweep.measure.text_form import TextForm
from sweep.measure.text_measurement import measure_text
from sweep.measure.token_streams import first_difference

HINDI = "The keeper said: हिन्दी में नमस्ते. "


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with Qwen3.5's pre-tokenizer and the class of Qwen2's tokenizer."""
    directory = make("qwen35", tmp_path_factory.mktemp("model"), vocab_size=512)
    make_tokenizer(directory, split=QWEN35_SPLIT, texts=[HINDI] * 9)
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "Qwen2Tokenizer"}))
    return directory


@pytest.fixture(scope="module")
def files(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, the model as a GGUF file, and the same file with Qwen2's pre-tokenizer."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "text.txt").write_text(("The keeper counted seven boats. " * 9 + HINDI) * 12)
    export(open_source(model, "model"), {"BF16": folder / "same.gguf"}, threads=1)
    header = read_header(folder / "same.gguf")
    fields = {**header.metadata, "tokenizer.ggml.pre": string("qwen2")}
    data = (folder / "same.gguf").read_bytes()[header.data_offset :]
    (folder / "other.gguf").write_bytes(encode_header(fields, header.tensors) + data)
    (folder / "damaged.gguf").write_bytes((folder / "same.gguf").read_bytes()[:2000])
    return folder


def check(model: Path, files: Path, *names: str, **changes: object) -> None:
    sources = [TokenSource("BF16", "model", Artefact.of(model), Reader.EXPORT)]
    for name in names:
        is_torch = name == "torch:BF16"
        file, reader = (model, Reader.TORCH) if is_torch else (files / name, Reader.FILE)
        sources.append(TokenSource(name, "model", Artefact.of(file), reader))
    text = TextFile("text.txt", Artefact.of(files / "text.txt"), "")
    job = replace(TokenCheckJob(tuple(sources), text, window=64), **changes)  # type: ignore[arg-type]
    job.run(Site(files))


def test_the_same_tokenizer_in_both_engines_passes(model: Path, files: Path) -> None:
    check(model, files, "torch:BF16", "same.gguf", "damaged.gguf", tasks=True)


def test_the_first_word_that_is_split_differently_is_named(model: Path, files: Path) -> None:
    words = r"^other.gguf and BF16 have different tokenizers, .* 'हिन्दी' is 1 token \(\d+\) in BF16 and \d+ tokens "
    with pytest.raises(InputError, match=words):
        check(model, files, "damaged.gguf", "same.gguf", "other.gguf")
    with pytest.raises(InputError, match="'हिन्दी' is"):  # tasks have texts in any script
        check(model, files, "other.gguf", text=None, tasks=True)


def test_conversations_in_two_templates_are_rejected(model: Path, files: Path) -> None:
    header = read_header(files / "same.gguf")
    fields = {
        **header.metadata,
        "tokenizer.chat_template": string("{% for m in messages %}{{ m.content }}{% endfor %}"),
    }
    data = (files / "same.gguf").read_bytes()[header.data_offset :]
    (files / "template.gguf").write_bytes(encode_header(fields, header.tensors) + data)
    row = {"messages": [{"role": "user", "content": HINDI}, {"role": "assistant", "content": "yes"}]}
    (files / "chat.jsonl").write_text(json.dumps(row) + "\n")
    text = TextFile("chat.jsonl", Artefact.of(files / "chat.jsonl"), "", TextForm.CONVERSATIONS)
    check(model, files, "same.gguf", "torch:BF16", text=text)
    with pytest.raises(InputError, match=r"template\.gguf and BF16 have different chat templates, .* of chat\.jsonl"):
        check(model, files, "template.gguf", text=text)


def write(kind: type, path: Path, windows: object, n_vocab: int) -> Path:
    options = {"model": ""} if kind is ReferenceWriter else {}
    with kind(path, windows, n_vocab=n_vocab, **options) as writer:
        rows = windows.tokens.shape[0] * windows.rows_each  # type: ignore[attr-defined]
        logits = np.zeros((rows, n_vocab), np.float32)
        writer.append(writer.encode(0, logits, np.full(rows, np.log(n_vocab)), np.zeros(rows, int)))
    return path


@pytest.mark.parametrize("kind", [BaseFileWriter, ReferenceWriter])
def test_log_probabilities_of_another_tokenizer_are_rejected(
    model: Path, files: Path, tmp_path: Path, kind: type
) -> None:
    text = (files / "text.txt").read_text()
    written = {}
    for name in ("same", "other"):
        with Model(files / f"{name}.gguf", vocabulary=True) as opened:
            windows = windows_of(opened.tokenize(text, add_special=True), 64)
            written[name] = Artefact.of(write(kind, tmp_path / name, windows, opened.n_vocab))
    check(model, files, reference=written["same"])
    named = r" \('हिन्दी' is \d+ tokens \(.*\) in the file and 1 token \(\d+\) in this model\)"
    with pytest.raises(InputError, match="another text, context or tokenizer" + named * (kind is BaseFileWriter)):
        check(model, files, reference=written["other"])


def test_engines_and_int8_agree_on_embeddings_with_padding(model: Path, files: Path, tmp_path: Path) -> None:
    """The model has more embeddings than the tokenizer has tokens, as Qwen's have."""
    quantized = open_model(model)
    calibrate(quantized, torch.empty(0, 1, dtype=torch.long), NAMED["w8a16"])
    save(quantized, NAMED["w8a16"], CalibrationRecord(None), model, tmp_path / "int8")
    llama = LlamaBackend(files / "same.gguf")
    windows = cut_windows(llama, (files / "text.txt").read_text(), n_ctx=64, max_windows=4)
    measure_text(llama, windows, write_reference=tmp_path / "reference")
    reference = open_reference(tmp_path / "reference")
    for backend in (TorchBackend.open(model), open_fake_quant(tmp_path / "int8", "cpu")):
        assert backend._vocabulary.n_vocab < backend.n_vocab == llama.n_vocab == reference.n_vocab == 512
        found = measure_text(backend, windows, reference=reference).divergence
        assert found is not None
        assert 0 <= found.figures.kld_mean < 0.01  # what BF16 rounds off in two engines
    llama.close()


def test_a_run_with_two_tokenizers_is_rejected_before_any_work(model: Path, files: Path, tmp_path: Path) -> None:
    arguments = ["--variants", f"=BF16,gguf:{files / 'other.gguf'}", "--tasks", "none", "--window", "64"]
    arguments += ["--perplexity", files / "text.txt", "--workspace", tmp_path, "--format", "json"]
    done = call("run", model, *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "gguf:other.gguf and BF16 have different tokenizers" in line
    assert "'हिन्दी' is 1 token" in line
    events = [json.loads(row)["event"] for row in done.stdout.splitlines()]
    assert events[-1] == "refused"
    assert "cell_started" not in events


def test_the_position_of_the_first_difference(files: Path) -> None:
    with Model(files / "same.gguf", vocabulary=True) as vocabulary:
        tokens = vocabulary.tokenize(" keeper said")
        assert first_difference(vocabulary, tokens, tokens) is None
        found = first_difference(vocabulary, tokens, tokens[:-1])
        assert found is not None
        assert (found.word, found.second) == ("said", ())
        other = np.array([tokens[0], 5], np.int32)
        found = first_difference(vocabulary, tokens, other)
        assert found is not None
        assert found.word == "said"
        assert found.first == tuple(tokens[1:].tolist())
