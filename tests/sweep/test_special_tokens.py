"""Special tokens in a text: every part of a run reads the same ids, and results that depend on the choice have it in
their keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import call

import presets
from converters.errors import InputError
from converters.llamacpp.ghost import vocabulary
from converters.llamacpp.model import Model
from converters.resolver import open_source
from int8.checkpoint import read_calibration
from sweep.backends.torch_vocabulary import TorchVocabulary
from sweep.jobs.calibration import calibration_source
from sweep.jobs.imatrix import ImatrixJob
from sweep.jobs.int8_checkpoint import Int8CheckpointJob
from sweep.jobs.text import TextJob
from sweep.measure.text_form import TextForm
from sweep.measure.texts import form_of, marker_in, model_text, text_tokens
from sweep.planning.imatrix import find_imatrix
from sweep.planning.texts import calibration_text

MICRO = presets.builtin_models()["micro"]
MESSAGES = [{"role": "user", "content": "What is 3 + 4?"}, {"role": "assistant", "content": "7 <|endoftext|>"}]
RENDERED = "<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\n7 <|endoftext|><|im_end|>\n"


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with vocabulary(open_source(MICRO.directory, "micro").metadata) as file, Model(file, vocabulary=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def torch_vocabulary() -> TorchVocabulary:
    return TorchVocabulary.open(MICRO.directory)


@pytest.fixture
def texts(tmp_path: Path) -> dict[TextForm, Path]:
    """The same conversations: rendered, and as JSONL."""
    (tmp_path / "chat.txt").write_text(RENDERED * 60)
    (tmp_path / "chat.jsonl").write_text("\n" + (json.dumps({"messages": MESSAGES}) + "\n") * 60)
    raw, rows = tmp_path / "chat.txt", tmp_path / "chat.jsonl"
    return {TextForm.PLAIN: raw, TextForm.SPECIAL: raw, TextForm.CONVERSATIONS: rows}


@pytest.mark.parametrize("form", [form for form in TextForm if form is not TextForm.IMAGES])
def test_llama_cpp_torch_and_calibration_read_the_same_tokens(
    form: TextForm, texts: dict[TextForm, Path], model: Model, torch_vocabulary: TorchVocabulary
) -> None:
    tokens = text_tokens(texts[form], form, model)
    assert np.array_equal(text_tokens(texts[form], form, torch_vocabulary), tokens)
    text = calibration_source("a text", form, lambda: texts[form])
    samples = text.of(MICRO.directory, len(tokens) // 16, 16)
    assert torch.equal(samples.flatten(), torch.from_numpy(tokens[: len(tokens) // 16 * 16]).long())
    starts = int((tokens == 1534).sum())  # <|im_start|>
    assert starts == (0 if form is TextForm.PLAIN else 120)


def test_conversations_are_the_text_that_the_template_writes(
    texts: dict[TextForm, Path], model: Model, torch_vocabulary: TorchVocabulary
) -> None:
    for known in (model, torch_vocabulary):
        assert model_text(texts[TextForm.CONVERSATIONS], TextForm.CONVERSATIONS, known) == RENDERED * 60


def test_the_form_follows_from_the_file_and_the_option(texts: dict[TextForm, Path], tmp_path: Path) -> None:
    for special in (False, True):
        assert form_of(texts[TextForm.CONVERSATIONS], special) is TextForm.CONVERSATIONS
        assert form_of(texts[TextForm.PLAIN], special) is (TextForm.SPECIAL if special else TextForm.PLAIN)
        (tmp_path / "mixed.jsonl").write_text('{"text": "one"}\n' + json.dumps({"messages": MESSAGES}))
        assert form_of(tmp_path / "mixed.jsonl", special) is TextForm.CONVERSATIONS  # whose first line is an error
        (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n')
        assert form_of(tmp_path / "rows.jsonl", special).parses_special is special
    assert marker_in("a < b | c > <tool> <|") is None
    assert marker_in("a <|im_end|> <|x|>") == "<|im_end|>"


def test_a_line_separator_in_a_message_does_not_end_the_line(tmp_path: Path, model: Model) -> None:
    file, said = tmp_path / "chat.jsonl", "one\u2028two\x85"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": said}]}, ensure_ascii=False) + "\r\n")
    assert model_text(file, form_of(file, False), model) == f"<|im_start|>user\n{said}<|im_end|>\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not JSON", "line 2: is not a conversation"),
        ('{"messages": []}', "line 2: is not a conversation"),
        ('{"messages": ["hello"]}', "line 2: is not a conversation"),
        ('{"messages": [{"role": "user", "content": 7}]}', "line 2: a message's content is neither"),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "me", "content": "x"}]}',
            "line 2: a message's role",
        ),
    ],
)
def test_a_malformed_conversation_is_named_by_its_line(tmp_path: Path, model: Model, line: str, message: str) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps({"messages": MESSAGES}) + f"\n{line}\n")
    with pytest.raises(InputError, match=message) as error:
        text_tokens(file, TextForm.CONVERSATIONS, model)
    assert "\n" not in str(error.value)


def test_only_texts_that_are_read_otherwise_get_other_identities(texts: dict[TextForm, Path], tmp_path: Path) -> None:
    """Stored results of plain texts are found again; the calibration of int8 once parsed all special tokens."""
    plain = tmp_path / "plain.txt"
    plain.write_text("no special tokens here")
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()
    assert calibration_text(str(plain), None, workspace=tmp_path).file.identity == digest
    assert calibration_text(str(plain), None, workspace=tmp_path).note is None
    assert (
        calibration_text(str(plain), None, parse_special=True, workspace=tmp_path).file.identity == f"{digest}+special"
    )
    raw = str(texts[TextForm.PLAIN])
    identities = {
        calibration_text(raw, None, workspace=tmp_path).file.identity,
        calibration_text(raw, None, parse_special=True, workspace=tmp_path).file.identity,
        hashlib.sha256(Path(raw).read_bytes()).hexdigest(),
    }
    assert len(identities) == 3
    sources = [find_imatrix("auto", Path(raw), None, special) for special in (False, True)]
    assert len({source.identity for source in sources if source is not None}) == 2
    known = hashlib.sha256(b"512" + Path(raw).read_bytes()).hexdigest()  # the identity of earlier results
    assert sources[0] is not None
    assert sources[0].identity == known


def test_the_choice_is_in_the_keys_of_a_plan_and_is_said(texts: dict[TextForm, Path], tmp_path: Path) -> None:
    from sweep.commands.run import prepare
    from sweep.planning.request import Request

    def keys(text: Path, *, special: bool) -> tuple[dict[type, str], list[str], str]:
        said: list[str] = []
        request = Request(
            variants="=BF16,Q4_K_M,int8:sq", tasks=("none",), perplexity=(text,), imatrix="auto", calibration=text,
            parse_special=special, workspace=tmp_path / "w",
        )  # fmt: skip
        plan = prepare(request, said.append).plan
        return {type(cell.job): cell.key for cell in plan.cells}, said, plan.about["text"]

    plain, said_plain, name_plain = keys(texts[TextForm.PLAIN], special=False)
    special, said_special, name_special = keys(texts[TextForm.SPECIAL], special=True)
    _, said_rows, name_rows = keys(texts[TextForm.CONVERSATIONS], special=False)
    for kind in (TextJob, ImatrixJob, Int8CheckpointJob):
        assert plain[kind] != special[kind]
    assert name_plain == "chat.txt"
    assert name_special == "chat.txt (with special tokens)"
    assert name_rows == "chat.jsonl (conversations)"
    assert said_plain == [
        "chat.txt: <|im_start|> and other special tokens are read as plain text, as llama-perplexity does; to read "
        "them as special tokens give --parse-special"
    ]
    assert said_special == ["chat.txt: <|im_start|> and other special tokens are read as such"]
    assert said_rows == [
        "chat.jsonl: conversations, written in the model's chat template; special tokens are read as such"
    ]


def test_int8_calibrates_on_conversations(texts: dict[TextForm, Path], tmp_path: Path) -> None:
    arguments = ["--recipe", "w8a8", "--calibration", texts[TextForm.CONVERSATIONS], "--samples", 8, "--length", 32]
    done = call("int8", "micro", *arguments, "--out", tmp_path / "out", "--workspace", tmp_path / "w")
    assert done.returncode == 0, done.stderr
    assert "special tokens are read as such" in done.stderr
    assert read_calibration(tmp_path / "out").text == "chat.jsonl (conversations)"
