"""torch reads tokenizer.json itself: it gives llama.cpp's tokens, whatever class or model type stands beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import QWEN2_SPLIT, QWEN35_SPLIT, make_tokenizer
from families import make
from transformers import AutoTokenizer

from converters.errors import InputError
from converters.llamacpp.container import encode_header, lay_out, string, uint32
from converters.llamacpp.model import Model
from converters.tokenizer import read_tokenizer
from int8.calibrate import calibrate
from int8.checkpoint import CalibrationRecord, save
from int8.model import open_model
from int8.recipe import NAMED
from int8.tokenizer import load_tokenizer
from sweep.backends.torch_vocabulary import TorchVocabulary

HINDI = "हिन्दी में नमस्ते"
TEXTS = (
    HINDI, "สวัสดีครับ กำลัง", "e\u0301 Ångström \u212b", "It's 12 apples.\r\n\tx = 1  \n",
    "<|im_start|>user<|im_end|><|tool|>[mark] <tool_call>", "",
)  # fmt: skip
WORDS = (HINDI, "Ångström é ậ", "สวัสดี", "as a sea, user x = 1")
SPLITS = {"qwen2": QWEN2_SPLIT, "qwen3.5": QWEN35_SPLIT}


def tokenizer(
    directory: Path, split: str = "qwen3.5", cls: str | None = "Qwen2Tokenizer", model_type: str = "qwen3_5_text",
    normalizer: bool = True,
) -> Path:  # fmt: skip
    """A tokenizer and a config without weights. Its added tokens are special or not, as in Qwen's files."""
    make_tokenizer(directory, normalizer=normalizer, split=SPLITS[split], texts=[*WORDS] * 9)
    content = json.loads((directory / "tokenizer.json").read_text())
    size = 1 + max(entry["id"] for entry in content["added_tokens"])
    for number, token in enumerate(("<|tool|>", "<tool_call>", "[mark]"), size):
        entry = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        content["added_tokens"].append({"id": number, "content": token, **entry})
    (directory / "tokenizer.json").write_text(json.dumps(content))
    settings = json.loads((directory / "tokenizer_config.json").read_text()) | {"tokenizer_class": cls}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "config.json").write_text(json.dumps({"model_type": model_type, "vocab_size": 520}))
    return directory


@pytest.fixture
def llama(tmp_path: Path) -> Iterator[Callable[[Path], Model]]:
    """The vocabulary that an export of the directory gets, in llama.cpp."""
    opened: list[Model] = []

    def of(directory: Path) -> Model:
        config = json.loads((directory / "config.json").read_text())
        fields = read_tokenizer(directory, config).fields()
        general = {"general.architecture": string("qwen3"), "qwen3.block_count": uint32(1)}
        path = tmp_path / "vocabulary.gguf"
        path.write_bytes(encode_header({**general, **fields}, lay_out([])))
        opened.append(Model(path, vocabulary=True))
        return opened[-1]

    yield of
    for one in opened:
        one.close()


@pytest.mark.parametrize("normalizer", [True, False])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("cls", ["Qwen2Tokenizer", "Qwen3_5Tokenizer", "PreTrainedTokenizerFast", None])
@pytest.mark.parametrize("model_type", ["qwen3", "qwen3_5_text", "qwen3_5_moe_text"])
def test_torch_and_llama_cpp_give_the_same_tokens(
    tmp_path: Path, llama: Callable[[Path], Model], split: str, cls: str | None, model_type: str, normalizer: bool
) -> None:
    directory = tokenizer(tmp_path / "t", split, cls, model_type, normalizer)
    ours, theirs = TorchVocabulary.open(directory), llama(directory)
    for text in TEXTS:
        for special in (False, True):
            tokens = theirs.tokenize(text, add_special=True, parse_special=special).tolist()
            assert ours.tokenize(text, add_special=True, parse_special=special).tolist() == tokens, (text, special)
            for shown in (False, True):
                assert ours.detokenize(tokens, special=shown) == theirs.detokenize(tokens, special=shown)
                assert [ours.piece(t, special=shown) for t in tokens] == [
                    theirs.piece(t, special=shown) for t in tokens
                ]
    assert len(ours.tokenize(HINDI)) == (3 if split == "qwen3.5" else len(theirs.tokenize(HINDI)))
    assert (ours.eos_id, ours.end_ids, ours.add_bos) == (theirs.eos_id, theirs.eog_ids, theirs.add_bos)
    assert ours.chat_template == theirs.chat_template
    assert np.array_equal(ours.tokenize("e\u0301"), ours.tokenize("é")) == normalizer


def test_transformers_would_build_another_tokenizer(tmp_path: Path) -> None:
    """Otherwise int8/tokenizer.py is not needed any more."""
    directory = tokenizer(tmp_path)
    theirs = AutoTokenizer.from_pretrained(directory)
    assert len(theirs(HINDI)["input_ids"]) > len(load_tokenizer(directory)(HINDI)["input_ids"])


def test_only_tokenizer_json_says_which_tokens_there_are_and_which_are_added_to_a_text(tmp_path: Path) -> None:
    """Not the settings in tokenizer_config.json, which llama.cpp never sees, and no truncation or padding."""
    directory = tokenizer(tmp_path)
    plain = load_tokenizer(directory)
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    settings |= {
        "add_bos_token": True,
        "bos_token": "<|endoftext|>",
        "unk_token": "<unk>",
        "split_special_tokens": True,
    }
    settings |= {"added_tokens_decoder": {"516": {"content": "keeper", "special": True}}, "model_max_length": 4}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    content = json.loads((directory / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }  # fmt: skip
    (directory / "tokenizer.json").write_text(json.dumps(content))
    changed = load_tokenizer(directory)
    for text in (*TEXTS, "the keeper <unk>"):
        assert changed(text)["input_ids"] == plain(text)["input_ids"]
        assert not TorchVocabulary(changed).add_bos


def test_an_end_token_that_is_an_ordinary_token_does_not_cut_words(tmp_path: Path) -> None:
    """As an argument of transformers' class it would become an added token."""
    directory = tokenizer(tmp_path)
    before = load_tokenizer(directory)("as, a sea")["input_ids"]
    (directory / "tokenizer_config.json").write_text("{}")
    end = vocabulary_of(directory)["s"]
    (directory / "config.json").write_text(json.dumps({"model_type": "qwen3", "vocab_size": 520, "eos_token_id": end}))
    loaded = load_tokenizer(directory)
    assert (loaded.eos_token_id, loaded("as, a sea")["input_ids"]) == (end, before)


def vocabulary_of(directory: Path) -> dict[str, int]:
    vocabulary: dict[str, int] = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    return vocabulary


def renumbered(directory: Path, token: str, number: int) -> None:
    content = json.loads((directory / "tokenizer.json").read_text())
    next(entry for entry in content["added_tokens"] if entry["content"] == token)["id"] = number
    (directory / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: (d / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda d: (d / "tokenizer.json").write_text("{"), "not valid JSON"),
        (lambda d: (d / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}'), "not byte-level BPE"),
        (
            lambda d: (d / "config.json").write_text('{"model_type": "qwen3", "vocab_size": 300}'),
            r"token '\[mark\]' has id \d+, but vocab_size in config.json is 300",
        ),
        (lambda d: renumbered(d, "[mark]", 519), r"added token '\[mark\]' has id 519, but the tokenizers library"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_rejected_in_one_line(
    tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    directory = tokenizer(tmp_path)
    change(directory)
    with pytest.raises(InputError, match=words) as error:
        load_tokenizer(directory)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cls", ["Qwen2Tokenizer", None])
@pytest.mark.parametrize("family", ["qwen35", "qwen35, multi-modal", "qwen35moe", "qwen3moe"])
def test_a_written_checkpoint_tokenizes_as_its_source(tmp_path: Path, family: str, cls: str | None) -> None:
    """For bitsweep and for everybody who uses AutoTokenizer, although its config has another model type."""
    source = make(family, tmp_path / "source", vocab_size=520)
    config = (source / "config.json").read_text()
    tokenizer(source, cls=cls)
    (source / "config.json").write_text(config)
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    model = open_model(source)
    calibrate(model, torch.empty(0, 1, dtype=torch.long), NAMED["w8a16"])
    save(model, NAMED["w8a16"], CalibrationRecord(None), source, tmp_path / "out")
    before, after = load_tokenizer(source), load_tokenizer(tmp_path / "out")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in TEXTS:
        tokens = before(text)["input_ids"]
        assert after(text)["input_ids"] == theirs(text)["input_ids"] == tokens
    assert theirs.eos_token_id == before.eos_token_id
    template = before.chat_template
    assert theirs.chat_template == {"default": template, "tool_use": "tools"}


def test_a_padded_vocabulary_is_the_same_in_both_engines(tmp_path: Path, llama: Callable[[Path], Model]) -> None:
    """Qwen's embeddings have more rows than the tokenizer has tokens: ids without a token give no text."""
    directory = tokenizer(tmp_path / "t")
    ours, theirs = TorchVocabulary.open(directory), llama(directory)
    assert ours.n_vocab < theirs.n_vocab == 520
    for special in (False, True):
        for token in range(520):
            assert ours.piece(token, special=special) == theirs.piece(token, special=special)
    ids = [5, ours.n_vocab, 519, 6]
    assert ours.detokenize(ids) == theirs.detokenize(ids) == ours.detokenize([5, 6])
    assert np.array_equal(ours.tokenize("a [PAD519] b", parse_special=True), theirs.tokenize("a [PAD519] b"))
