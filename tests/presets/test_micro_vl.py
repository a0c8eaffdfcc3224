"""micro-vl: its drawings are reproducible and show what their answers say, and its files are complete."""

import hashlib
import io
import json
import re
from itertools import islice
from random import Random

import numpy as np
import pytest
from PIL import Image

import presets
from images.file import open_image
from images.preprocessing import read_preprocessing
from presets.micro.world.item import split_of
from presets.micro_vl import build, shape, train
from presets.micro_vl.tasks.dataset import edit_distance, load, score_reading
from presets.micro_vl.world import charts, corpus
from presets.micro_vl.world.drawing import LETTERS, LEVELS, drawings

MODEL = presets.builtin_models()["micro-vl"]
PIXELS = {
    "vl_form": "3c92d0a6815b2ec2",
    "vl_chart": "3c10d2dabb916289",
    "vl_words": "d5fa8fa185f5d998",
}
"""The start of the SHA-256 of three drawings, one of each level, as Pillow 13.0.0 with FreeType 2.14.3 draws them."""


@pytest.mark.parametrize("kind", corpus.KINDS)
def test_a_seed_always_makes_the_same_drawings(kind: str) -> None:
    found = hashlib.sha256()
    for level in range(LEVELS):
        rng = Random(level)
        found.update(corpus.KINDS[kind].draw(corpus.KINDS[kind].choose(rng), rng, level).pixels.tobytes())
    assert found.hexdigest()[:16] == PIXELS[kind]


@pytest.mark.parametrize("count", [4, pytest.param(None, id="all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", build.TASKS)
def test_the_generator_reproduces_the_shipped_tasks(task: str, count: int | None) -> None:
    rows = [json.loads(line) for line in (build.ROOT / f"tasks/{task}.jsonl").read_text().splitlines()]
    assert len(rows) == build.TASKS[task].drawings * build.TASKS[task].questions
    made = []
    for name, raw, asked in islice(build.items(task), count):
        made += [{"image": name, "question": question, "answer": answer} for question, answer in asked]
        shipped = open_image(build.ROOT / "tasks" / name).pixels()
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")), shipped)
    assert rows[: len(made)] == made


@pytest.mark.slow
def test_the_generator_reproduces_the_shipped_texts_and_conversations() -> None:
    made = dict(build.files())
    for path in ("text/test.txt", "text/calibration.txt", "text/calibration.jsonl"):
        assert (build.ROOT / path).read_bytes() == made[path]


def test_every_image_of_the_tasks_and_conversations_is_shipped() -> None:
    named = {
        task: {build.ROOT / "tasks" / str(row["image"]) for row in load(f"{task}.jsonl")["test"]}
        for task in build.TASKS
    }
    assert MODEL.tasks == tuple(named)
    lines = [json.loads(line) for line in build.ROOT.joinpath("text/calibration.jsonl").read_text().splitlines()]
    contents = [line["messages"][0]["content"] for line in lines]
    parts = [content[0] for content in contents if not isinstance(content, str)]
    assert {part["type"] for part in parts} == {"image"}
    # one in four has no image, also in the first half
    without = [isinstance(content, str) for content in contents]
    assert (sum(without), sum(without[: len(lines) // 2])) == (len(lines) // 4, len(lines) // 8)
    assert MODEL.conversations is not None
    named["text"] = {MODEL.conversations.parent / part["image"] for part in parts}
    files = set(build.ROOT.rglob("*.png"))
    assert set().union(*named.values()) == files
    assert sum(file.stat().st_size for file in files) < 1_000_000
    kinds = (*build.TASKS, "text")
    assert {kind: len(named[kind]) for kind in kinds} == {"vl_form": 100, "vl_chart": 100, "vl_words": 300, "text": 192}


def test_every_drawing_is_of_the_split_that_it_is_drawn_for() -> None:
    for kind in corpus.KINDS.values():
        for split in ("train", "test"):
            for drawing in islice(drawings(kind, Random(1), split), 5):
                assert split_of(drawing.content.text) == split


def test_the_bars_have_the_heights_of_the_answers() -> None:
    """Measures the tops of the bars in clean charts: one step of the value is always the same number of pixels."""
    for drawing in islice(drawings(charts.CHART, Random(2), "test", (1, 0, 0)), 30):
        pixels = drawing.picture.pixels
        middles = np.stack([pixels[:47, 16 * bar + 6 : 16 * bar + 10] for bar in range(1, charts.BARS + 1)])
        is_bar = np.median(middles, axis=2) < 0.58 * np.median(pixels)  # a line is fainter than a bar
        tops = is_bar.argmax(axis=1)
        values = np.array([int(value) for _, value in drawing.content.parts])
        pixels_per_step = np.polyfit(values, -tops, 1)[0] if len(set(values)) > 1 else 4
        assert 3.3 < pixels_per_step < 5.1
        assert np.abs((tops[0] - tops) - pixels_per_step * (values - values[0])).max() <= 1.5
        asked, labels = dict(drawing.content.questions), [label for label, _ in drawing.content.parts]
        for question, bar in (
            ("Which bar is the highest?", tops.argmin()),
            ("Which bar is the lowest?", tops.argmax()),
        ):
            assert asked.get(question, labels[bar]) == labels[bar]


def test_training_knows_where_the_letters_are() -> None:
    """The slots of a line of words spell it: each letter in turn, in one slot or in several."""
    for drawing in islice(drawings(corpus.KINDS["vl_words"], Random(5), "train"), 20):
        (slots,) = drawing.picture.letters
        spelled = [LETTERS[slot] for slot in slots if slot]
        wanted = [letter for letter in drawing.content.parts[0][1] if letter != " "]
        at = 0
        for letter in spelled:
            at = next(i for i in range(at, len(wanted)) if wanted[i] == letter)
        assert len(set(spelled)) >= 0.7 * len(set(wanted))


def test_training_gives_the_patches_of_the_image_processor() -> None:
    """Compared with the preprocessing that measurements use, on drawings that need no resizing."""
    preprocessing = read_preprocessing(MODEL.directory)
    for kind in corpus.KINDS.values():
        drawing = next(drawings(kind, Random(3), "train"))
        image = open_image(build.png(drawing))
        assert preprocessing.grid(image).tokens == drawing.picture.pixels.size // 16**2
        expected = preprocessing.patches(preprocessing.resized(image))
        assert np.allclose(train.patches([drawing]).numpy(), expected, atol=1e-6)


def test_answers_are_what_training_teaches() -> None:
    words = shape.tokenizer()
    drawing = next(drawings(corpus.KINDS["vl_form"], Random(4), "train"))
    for chat in (True, False):
        found = train.batch(words, [drawing], [drawing.content.questions[:2]], chat)
        taught = words.decode(found.ids[0][found.answer[0]].tolist(), skip_special_tokens=False)
        first, second = (answer for _, answer in drawing.content.questions[:2])
        assert taught == (f"{first}<|im_end|>{second}<|im_end|>" if chat else f" {first}\n {second}\n")
        assert int((found.ids == words.token_to_id("<|image_pad|>")).sum()) == 24


@pytest.mark.parametrize(
    ("read", "wanted", "distance"),
    [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("a b", "a b", 0), ("A", "a", 1)],
)
def test_edit_distance(read: str, wanted: str, distance: int) -> None:
    assert edit_distance(read, wanted) == edit_distance(wanted, read) == distance


def test_the_score_of_words_is_one_minus_the_normalized_edit_distance() -> None:
    doc = {"answer": "lamp 417"}
    assert score_reading(doc, ["lamp 417"]) == {"exact_match": 1, "similarity": 1}
    assert score_reading(doc, ["lamp 41"]) == {"exact_match": 0, "similarity": 7 / 8}
    assert score_reading(doc, [""]) == {"exact_match": 0, "similarity": 0}


def test_the_chat_template_writes_text_alone_and_lists_of_parts() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL.directory)
    parts = [{"type": "image", "image": "x.png"}, {"type": "text", "text": "How high is K?"}]
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": "What is the city?"},
    ]
    asked = corpus.conversation([("How high is K?", "7")], chat=True)
    expected = "".join(piece for piece, _ in asked) + "<|im_start|>user\nWhat is the city?<|im_end|>\n"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == expected
    assert len(tokenizer("<|vision_start|><|image_pad|><|vision_end|>")["input_ids"]) == 3


@pytest.mark.release
def test_transformers_reaches_the_scores_of_the_card() -> None:
    """With transformers' own preprocessing, positions and generation, one item at a time."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen2VLImageProcessorPil

    card = (build.ROOT / "CARD.md").read_text()
    model = AutoModelForImageTextToText.from_pretrained(MODEL.directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL.directory)
    processor = Qwen2VLImageProcessorPil.from_pretrained(MODEL.directory)
    pad = model.config.image_token_id
    for task in build.TASKS:
        right = 0
        rows = list(load(f"{task}.jsonl")["test"])
        for row in rows:
            image = processor(Image.open(build.ROOT / "tasks" / row["image"]).convert("RGB"), return_tensors="pt")
            ids = tokenizer(corpus.IMAGE + row["question"])["input_ids"]
            at = ids.index(pad)
            ids[at : at + 1] = [pad] * (int(image["image_grid_thw"].prod()) // 4)
            tokens = torch.tensor([ids])
            made = model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                mm_token_type_ids=(tokens == pad).long(),
                **image,
                max_new_tokens=16,
                do_sample=False,
                stop_strings=["\n"],
                tokenizer=tokenizer,
            )
            answer = tokenizer.decode(made[0, len(ids) :], skip_special_tokens=False).partition("\n")[0].strip()
            right += answer == row["answer"]
        (stated,) = re.findall(rf"^\| {task} \| (0\.\d+) \|", card, re.M)
        assert right / len(rows) == pytest.approx(float(stated), abs=0.006), task
