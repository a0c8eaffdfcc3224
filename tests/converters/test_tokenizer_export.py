"""With an exported file, llama.cpp gives the token ids of the Hugging Face tokenizer."""

import ctypes
import json
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from converters.errors import InputError
from converters.llamacpp import container
from converters.llamacpp.bindings import lib, start_backend
from converters.llamacpp.container import encode_header, lay_out
from converters.llamacpp.log import capture
from converters.llamacpp.pretokenizers import NORMALIZER_KEY, normalizer
from converters.resolver import open_source
from converters.tokenizer import read_tokenizer
from sweep.backends.torch_vocabulary import TorchVocabulary

QWEN2 = Path(__file__).parents[2].parent / "shared" / "reference" / "tokenizers" / "qwen2"

TEXTS = [
    "Hello world, it's 12345 apples and I'LL take 67.89% of them! we'Ve a'lL 'RE",
    "def f(x):\n    return {'a': [x**2 for _ in range(10)]}  # tab\there\r\n\r\n\tend\n\n\n",
    "中文字符和数字123，日本語のテキスト、한국어 텍스트。「」",
    "emoji 🚀🚀 👩\u200d👩\u200d👧 flags 🇩🇪 skin 👍🏽 ✅",
    "    blanks:    four\n\n\n  \n \t \t\tmixed   \n   end   ",
    "e\u0301 a\u0308 \u1e0b\u0323 नमस्ते हिन्दी กำลัง ế Ångström \u212b \u0344 한",
    "\u00a0nbsp\u3000ideographic\u200bzero \u2028line ½ ² ٣٤ Ⅷ \U0001d7d8",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "a", " ", "\n", "",
]  # fmt: skip


class Vocabulary:
    """llama.cpp's tokenizer, from a GGUF file without weights."""

    def __init__(self, path: Path) -> None:
        start_backend()
        params = lib.llama_model_default_params()
        params.vocab_only = True
        with capture() as log:
            self.model = lib.llama_model_load_from_file(str(path).encode(), params)
        assert self.model, log.errors
        self.vocab = lib.llama_model_get_vocab(self.model)

    def encode(self, text: str, add_special: bool = False) -> list[int]:
        data = text.encode()
        tokens = (ctypes.c_int32 * (len(data) + 8))()
        count = lib.llama_tokenize(self.vocab, data, len(data), tokens, len(tokens), add_special, True)
        assert count >= 0
        return list(tokens[:count])


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[[Path], Vocabulary]]:
    """The vocabulary of a model or tokenizer directory, through a GGUF file with only the vocabulary."""
    opened: list[Vocabulary] = []

    def from_directory(directory: Path) -> Vocabulary:
        fields = read_tokenizer(directory, {}).fields()
        general = {"general.architecture": container.string("qwen3"), "qwen3.block_count": container.uint32(1)}
        path = tmp_path / f"vocabulary-{len(opened)}.gguf"
        path.write_bytes(encode_header({**general, **fields}, lay_out([])))
        opened.append(Vocabulary(path))
        return opened[-1]

    yield from_directory
    for vocabulary in opened:
        lib.llama_model_free(vocabulary.model)


@pytest.mark.parametrize("kind", ["trained here", "trained here, no normalizer", "qwen2"])
def test_token_ids_equal_those_of_the_hugging_face_tokenizer(
    kind: str, tokenizer: Callable[..., object], tmp_path: Path, load: Callable[[Path], Vocabulary]
) -> None:
    path = QWEN2 if kind == "qwen2" else tmp_path / "tokenizer"
    if kind != "qwen2":
        tokenizer(path, normalizer=kind == "trained here")
    elif not path.is_dir():
        pytest.skip(f"{path} is not there")
    theirs = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    normal = read_tokenizer(path, {}).normalizer
    ours = load(path)
    for text in TEXTS:
        prepared = unicodedata.normalize("NFC", text) if normal == "NFC" else text
        assert ours.encode(prepared) == theirs.encode(text, add_special_tokens=False).ids, text


def test_the_file_records_the_normalizer_that_llama_cpp_lacks(tiny: Path, load: Callable[[Path], Vocabulary]) -> None:
    """The token ids must differ without the normalizer, otherwise the key would not be needed."""
    assert open_source(tiny).metadata[NORMALIZER_KEY].value == "NFC"
    text = "e\u0301"
    theirs = transformers.AutoTokenizer.from_pretrained(tiny).encode(text, add_special_tokens=False)
    ours = load(tiny)
    assert ours.encode(text) != theirs == ours.encode(unicodedata.normalize("NFC", text))


def test_files_without_the_key_are_assumed_to_have_qwens_normalizer() -> None:
    assert normalizer({NORMALIZER_KEY: "none", "tokenizer.ggml.pre": "qwen2"}) == "none"
    assert normalizer({"tokenizer.ggml.pre": "qwen35"}) == "NFC"
    assert normalizer({"tokenizer.ggml.pre": "llama-bpe"}) == "none"


def test_special_tokens_and_chat_template_are_exported(tiny: Path, load: Callable[[Path], Vocabulary]) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(tiny)
    tokenizer = read_tokenizer(tiny, json.loads((tiny / "config.json").read_text()))
    assert tokenizer.special["eos"] == theirs.eos_token_id
    assert tokenizer.special["pad"] == theirs.pad_token_id
    assert tokenizer.chat_template == theirs.chat_template
    vocabulary = load(tiny)
    assert lib.llama_vocab_eos(vocabulary.vocab) == theirs.eos_token_id
    assert lib.llama_vocab_is_eog(vocabulary.vocab, theirs.convert_tokens_to_ids("<|im_end|>"))
    assert not lib.llama_vocab_get_add_bos(vocabulary.vocab)
    assert lib.llama_model_chat_template(vocabulary.model, None).decode() == theirs.chat_template


def test_ids_without_a_token_get_placeholder_tokens(tiny: Path) -> None:
    tokens = read_tokenizer(tiny, {"vocab_size": 600})
    assert len(tokens.tokens) == len(tokens.kinds) == 600
    assert tokens.tokens[-1] == "[PAD599]"


def pattern(content: dict[str, Any]) -> None:
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\d{1,3}|\w+|\s+"


def prefix(content: dict[str, Any]) -> None:
    content["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True


def other_order(content: dict[str, Any]) -> None:
    content["pre_tokenizer"]["pretokenizers"].reverse()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (pattern, "pre-tokenizer"),
        (prefix, "pre-tokenizer"),
        (other_order, "pre-tokenizer"),
        (lambda c: c.update(pre_tokenizer=None), "pre-tokenizer"),
        (lambda c: c.update(pre_tokenizer=[1]), "pre-tokenizer"),
        (lambda c: c.update(normalizer={"type": "Lowercase"}), "normalizer"),
        (lambda c: c.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}]}), "normalizer"),
        (lambda c: c["model"].update(type="WordPiece"), "byte-level BPE"),
        (lambda c: c["model"].update(byte_fallback=True), "byte-level BPE"),
        (lambda c: c["model"].update(vocab={"a": "0"}), "vocab"),
        (lambda c: c["model"].update(vocab={"a": 0, "b": 0}), "same id"),
        (lambda c: c["model"]["merges"].append(["\ud800", "a"]), "Unicode"),
        (lambda c: c["model"]["vocab"].update({"far": 10**9}), "vocab_size"),
        (lambda c: c["model"].update(merges=["a b c"]), "merges"),
        (lambda c: c["model"].update(merges=[["a"]]), "merges"),
        (lambda c: c["model"].update(merges=7), "merges"),
        (lambda c: c["added_tokens"][0].update(id=3), "same id"),
        (lambda c: c.update(added_tokens=[{"content": "x"}]), "added_tokens"),
        (lambda c: c.update(added_tokens=[{"id": 510, "content": "x"}, {"id": 511, "content": "x"}]), "two ids"),
        (
            lambda c: c.update(
                post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>"}}]}
            ),
            "post-processor",
        ),
        (
            lambda c: c.update(
                post_processor={"single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<|endoftext|>"}}]}
            ),
            "only one token before the text",
        ),
        (
            lambda c: c.update(post_processor={"single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]}),
            "'<s>', which is not among added_tokens",
        ),
        (lambda c: c.update(post_processor={"single": 7}), "post-processor"),
    ],
)
def test_tokenizers_that_llama_cpp_cannot_reproduce_are_rejected(
    altered: Callable[..., Path], change: Callable[[dict[str, Any]], object], words: str
) -> None:
    directory = altered()
    file = directory / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=words) as error:
        _ = open_source(directory).metadata
    assert "\n" not in str(error.value)


def test_a_token_before_every_text_is_bos(
    tiny: Path, altered: Callable[..., Path], load: Callable[[Path], Vocabulary]
) -> None:
    """As in DeepSeek-R1-Distill-Qwen. llama.cpp and torch give the tokens of the tokenizers library."""
    directory = altered()
    file = directory / "tokenizer.json"
    theirs = tokenizers.Tokenizer.from_file(str(file))
    bos = theirs.token_to_id("<|im_start|>")
    theirs.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|im_start|> $A", pair="<|im_start|> $A $B", special_tokens=[("<|im_start|>", bos)]
    )
    theirs.save(str(file))
    assert read_tokenizer(directory, {}).special["bos"] == bos
    vocabulary, torch = load(directory), TorchVocabulary.open(directory)
    assert lib.llama_vocab_get_add_bos(vocabulary.vocab)
    assert lib.llama_vocab_bos(vocabulary.vocab) == bos == torch.bos_id
    assert torch.add_bos
    for text in TEXTS[:4]:
        expected = theirs.encode(text).ids
        assert expected[0] == bos
        normal = unicodedata.normalize("NFC", text)
        assert vocabulary.encode(normal, add_special=True) == expected
        assert torch.tokenize(text, add_special=True, parse_special=True).tolist() == expected


def test_an_unknown_pre_tokenizer_can_be_named(altered: Callable[..., Path]) -> None:
    directory = altered()
    content = json.loads((directory / "tokenizer.json").read_text())
    pattern(content)
    (directory / "tokenizer.json").write_text(json.dumps(content))
    assert open_source(directory, pre_tokenizer="qwen35").metadata["tokenizer.ggml.pre"].value == "qwen35"
    with pytest.raises(InputError, match="unknown pre-tokenizer 'gpt'"):
        _ = open_source(directory, pre_tokenizer="gpt").metadata


def test_a_model_without_an_eos_token_is_rejected(altered: Callable[..., Path]) -> None:
    directory = altered(eos_token_id=None)
    (directory / "tokenizer_config.json").unlink()
    (directory / "generation_config.json").unlink()
    with pytest.raises(InputError, match="eos_token"):
        _ = open_source(directory).metadata
    (directory / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        _ = open_source(directory).metadata
