"""Calibration with images: JSONL of conversations as the prompts of a model, and every kind of bad line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vision_models import IMAGE_TOKEN, make_vision_model, save_image

import presets
from converters.errors import InputError
from images.preprocessing import read_preprocessing
from int8.samples import ImagePrompts
from sweep.backends.torch_vocabulary import TorchVocabulary
from sweep.commands.int8 import Int8Request, quantize
from sweep.jobs.calibration import calibration_source
from sweep.measure.image_conversations import image_prompts
from sweep.measure.text_form import TextForm
from sweep.measure.texts import form_of
from sweep.planning.texts import calibration_text, text_for, text_only_warning

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("vision") / "model"
    make_vision_model("qwen3vl", directory)
    (directory / "config.json").write_text(
        json.dumps({**json.loads((directory / "config.json").read_text()), "image_token_id": IMAGE_TOKEN})
    )
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


def asked(image: Any, text: str = "Read:", answer: str = "12") -> dict[str, Any]:
    parts = [{"type": "image", "image": image}, {"type": "text", "text": text}]
    return {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of conversations beside images/a.png (200 x 120) and images/b.png (64 x 96)."""
    (tmp_path / "images").mkdir()
    save_image(tmp_path / "images" / "a.png", 200, 120, 1)
    save_image(tmp_path / "images" / "b.png", 64, 96, 2)

    def give(*rows: Any) -> Path:
        path = tmp_path / "conversations.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return give


def prompts(path: Path, model: Path, *sizes: int | None) -> ImagePrompts:
    return image_prompts(path, TorchVocabulary.open(model), model, *sizes)


@pytest.mark.parametrize(
    "item",
    [
        {"image": "images/a.png", "question": "Read:", "answer": "12", "type": "words"},
        {"image_path": "images/a.png", "query": "Read:", "label": "12"},
        {"image": "images/a.png", "question": "Read:", "answers": ["12", "twelve"]},
    ],
)
def test_an_item_of_a_data_set_is_the_conversation_of_its_question_and_answer(
    item: dict[str, Any], model: Path, write: Callable[..., Path]
) -> None:
    expected = prompts(write(asked("images/a.png")), model, 1)
    file = write(item)
    assert form_of(file, False) is TextForm.IMAGES
    assert prompts(file, model, 1) == expected


def test_a_conversation_has_the_tokens_of_its_template_and_of_its_images(
    model: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    """As transformers' processor writes them: every image token repeated by the tokens of its image."""
    text_only = {"messages": [{"role": "user", "content": "2 + 3"}, {"role": "assistant", "content": "5"}]}
    openai = asked("")
    openai["messages"][0]["content"][0] = {"type": "image_url", "image_url": {"url": "images/b.png"}}
    path = write(asked("images/a.png"), text_only, openai)
    vocabulary, preprocessing = TorchVocabulary.open(model), read_preprocessing(model)
    found = prompts(path, model, 3)
    assert found.image_token == IMAGE_TOKEN
    for template in (None, TEMPLATE):
        vocabulary.chat_template = template
        found = image_prompts(path, vocabulary, model, 3)
        before, after = ("", "") if template is None else ("<|im_start|>user\n", "<|im_end|>\n")
        answer = "12" if template is None else "<|im_start|>assistant\n12<|im_end|>\n"
        pieces = (f"{before}<|vision_start|>", f"<|vision_end|>Read:{after}{answer}")
        start, end = (vocabulary.tokenize(piece, parse_special=True).tolist() for piece in pieces)
        for prompt in (found.prompts[0], found.prompts[2]):
            (image,) = prompt.images
            assert list(prompt.tokens) == start + [IMAGE_TOKEN] * preprocessing.grid(image).tokens + end
        assert found.prompts[1].images == ()
    assert [prompt.images[0].width for prompt in (found.prompts[0], found.prompts[2])] == [200, 64]


def test_samples_are_spread_over_the_file(model: Path, write: Callable[..., Path]) -> None:
    path = write(*(asked("images/a.png", f"{number}") for number in range(200)))
    whole = prompts(path, model)
    assert len(whole) == 200
    assert prompts(path, model, 4).prompts == tuple(whole.prompts[i] for i in (0, 50, 100, 150))
    with pytest.raises(InputError, match="has 200 conversations, too few for 201 samples"):
        prompts(path, model, 201)
    with pytest.raises(InputError, match=r"conversations\.jsonl, line 1: has \d+ tokens, .*more than 10"):
        prompts(path, model, 4, 10)
    with pytest.raises(InputError, match="too short to calibrate with: its conversations have"):
        prompts(write(asked("images/a.png")), model)


BAD: dict[str, tuple[Any, str]] = {
    "no JSON": ('{"messages": [{"content": [{"type": "image"', "line 2: is not a conversation, because it is no JSON"),
    "no conversation": ({"messages": []}, "line 2: is not a conversation"),
    "missing": (asked("images/c.png"), r"line 2: .*images/c\.png: there is no such image file"),
    "address": (asked("https://x.org/c.png"), r"line 2: an image is 'https://x\.org/c\.png'; give the path of a file"),
    "number": (asked(3), "line 2: an image is 3; give the path of a file"),
    "damaged": (asked("images/damaged.png"), r"line 2: .*damaged\.png: this is no image in a known format"),
    "part": (
        {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
        "line 2: a part of a message is neither",
    ),
    "role": ({"messages": [{"role": "me", "content": "x"}]}, "line 2: a message's role is 'me'"),
    "content": ({"messages": [{"role": "user", "content": 3}]}, "line 2: a message's content is neither"),
    "marker": (asked("images/a.png", "<|image_pad|>"), r"line 2: a text has <\|image_pad\|>"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_named(kind: str, model: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "images" / "damaged.png").write_text("no image")
    row, message = BAD[kind]
    path = write(asked("images/a.png"), row)
    assert form_of(path, False) is TextForm.IMAGES
    with pytest.raises(InputError, match=message) as error:
        prompts(path, model, 2)
    assert str(error.value).startswith(f"{path}, line 2: ")
    assert "\n" not in str(error.value)


def test_only_vision_models_and_only_calibration_read_images(
    model: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write(asked("images/a.png"))
    text_model = tmp_path / "text"
    text_model.mkdir()
    (text_model / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(InputError, match="has images, but text has no vision tower; give a text"):
        image_prompts(path, TorchVocabulary.open(model), text_model)
    with pytest.raises(InputError, match="has images; --perplexity takes a text"):
        text_for(None, path, False, tmp_path)  # type: ignore[arg-type]  # the model is not looked at
    text = calibration_text(str(path), None, workspace=tmp_path)
    assert text.name == "conversations.jsonl (conversations with images)"
    assert text_only_warning(text, model) is None
    plain = tmp_path / "plain.txt"
    plain.write_text("Some text.")
    warning = text_only_warning(calibration_text(str(plain), None, workspace=tmp_path), model)
    assert warning is not None
    assert "has no images, but this model takes them" in warning
    assert text_only_warning(calibration_text(str(plain), None, workspace=tmp_path), text_model) is None


def test_the_identity_depends_on_the_images(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(asked("images/a.png"), asked("images/b.png"))
    before = calibration_text(str(path), None, workspace=tmp_path).file.identity
    assert calibration_text(str(path), None, workspace=tmp_path).file.identity == before
    save_image(tmp_path / "images" / "b.png", 64, 96, 3)
    assert calibration_text(str(path), None, workspace=tmp_path).file.identity != before


def test_sweep_int8_calibrates_with_images(model: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(*(asked("images/a.png", f"{number}") for number in range(8)), asked("images/b.png"))
    said: list[str] = []
    request = Int8Request(str(model), "sq-ph", tmp_path / "out", str(path), samples=9, workspace=tmp_path / "space")
    written = quantize(request, said.append, lambda *_: None)
    assert written.calibration.samples == 9
    assert written.calibration.text == "conversations.jsonl (conversations with images)"
    assert said == [
        "conversations.jsonl: conversations with images; each one is a sample, and special tokens are read as such"
    ]
    source = calibration_source("x", TextForm.IMAGES, lambda: path).of(model, 9, None)
    assert isinstance(source, ImagePrompts)
    assert written.calibration.length == round(sum(len(prompt.tokens) for prompt in source.prompts) / 9)
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()


def test_a_built_in_vision_model_is_calibrated_with_its_own_images(tmp_path: Path) -> None:
    builtins = presets.builtin_models()
    vision, text = builtins["micro-vl"], builtins["micro"]
    own = calibration_text(None, vision, workspace=tmp_path).file
    assert own.form is TextForm.IMAGES
    assert calibration_text("micro-vl", vision, workspace=tmp_path).file == own
    assert calibration_text("micro-vl", text, workspace=tmp_path).file.form is TextForm.PLAIN, "micro takes no images"
    assert (
        calibration_text("micro", vision, workspace=tmp_path).file
        == calibration_text(None, text, workspace=tmp_path).file
    )
