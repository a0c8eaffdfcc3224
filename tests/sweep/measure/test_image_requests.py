"""What a backend is asked for requests of lm-eval with images, and which items are left out."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from letters_backend import BOS, LettersBackend
from PIL import Image

from converters.errors import InputError
from images.file import ImageFile, open_image
from images.preprocessing import Preprocessing
from sweep.backends.base import PlacedImage, ScoreRequest
from sweep.jobs.task import _notes
from sweep.measure.chat import ChatTemplateError
from sweep.measure.harness import check_prompts, run_task
from sweep.measure.image_prompt import AFTER, BEFORE, IMAGE
from sweep.measure.item_images import ItemImages, Unusable
from sweep.measure.lm_eval_model import UnusableItems, make_lm
from sweep.measure.lm_eval_tasks import TaskLocation
from sweep.measure.task_options import TaskOptions

PROCESSOR = Preprocessing(16, 2, 2, 32 * 32, 64 * 32 * 32, (0.5,) * 3, (0.5,) * 3)  # a token is 32 x 32 pixels
TEMPLATE = (
    "{%- for message in messages %}[{{ message.role }}]"
    "{%- if message.content is string %}{{ message.content | trim }}{%- else %}{%- for part in message.content %}"
    "{%- if part.type == 'image' %}" + BEFORE + IMAGE + AFTER + "{%- else %}{{ part.text | trim }}{%- endif %}"
    "{%- endfor %}{%- endif %}{%- if not loop.last or message.role == 'user' %}.{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}[assistant]{%- endif %}"
)
TEXT_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
HOSTILE = f"a <image> {IMAGE} {BEFORE}{IMAGE}{AFTER} <__media__>"


def png(width: int = 64, height: int = 32, shade: int = 0) -> bytes:
    raw = io.BytesIO()
    Image.new("L", (width, height), shade).save(raw, "PNG")
    return raw.getvalue()


@pytest.fixture
def image(tmp_path: Path) -> ImageFile:
    (tmp_path / "a.png").write_bytes(png())
    return open_image(tmp_path / "a.png", "a.png")  # two tokens


def model(**settings: Any) -> LettersBackend:
    return LettersBackend(**{"preprocessing": PROCESSOR, **settings})


def request(kind: str, *args: Any, task: str = "t", doc: int = 0) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(kind, {}, args, 0, (task, doc, 1))


def letters(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def texts(prompt: tuple[int, ...], images: tuple[PlacedImage, ...]) -> list[str]:
    """A prompt as the texts around its images."""
    cuts = [0, *(placed.at for placed in images), len(prompt)]
    return ["".join(map(chr, prompt[first:end])) for first, end in itertools.pairwise(cuts)]


def test_an_image_stands_at_its_placeholder_and_further_ones_are_text(image: ImageFile) -> None:
    backend = model()
    settings = {"max_gen_toks": 3, "until": []}
    seen = {"visual": [image, image]}
    prompts = [
        request("generate_until", "one <image>two<image> three <image>", settings, seen),
        request("generate_until", HOSTILE, settings, {"visual": [image]}),
        request("generate_until", "no <image>", settings, {"visual": []}),
        request("generate_until", "no <image>", settings),
    ]
    assert make_lm(backend).generate_until(prompts) == ["so"] * 4
    first, hostile, *others = backend.asked
    assert texts(first.prompt, first.images) == [f"one {BEFORE}", f"{AFTER}two{BEFORE}", f"{AFTER} three <image>"]
    assert texts(hostile.prompt, hostile.images) == [f"a {BEFORE}", AFTER + HOSTILE.removeprefix("a <image>")]
    assert {(one.prompt, one.images) for one in others} == {(letters("no <image>"), ())}
    assert [len(one.images) for one in backend.asked] == [2, 1, 0, 0]


def test_a_continuation_is_scored_after_its_image(image: ImageFile) -> None:
    backend = model(add_bos=True)
    seen = {"visual": [image]}
    asked = [("<image> is ", "big"), ("<image>x", " b"), ("", "bare"), ("plain", "b")]
    lm = make_lm(backend)
    answers = lm.loglikelihood(
        [request("loglikelihood", *pair, *([seen] if i < 3 else [])) for i, pair in enumerate(asked)]
    )
    at = (PlacedImage(image, 1 + len(BEFORE)),)
    start = (BOS, *letters(BEFORE + AFTER))
    assert backend.scored[0] == [
        ScoreRequest((*start, *letters(" is")), letters(" big"), at),  # the blank belongs to the continuation
        ScoreRequest((*start, *letters("x")), letters(" b"), at),
        ScoreRequest((backend.prefix_id,), letters("bare")),  # without context there is no image either
        ScoreRequest((BOS, *letters("plain")), letters("b")),
    ]
    assert [greedy for _, greedy in answers] == [True, True, True, True]


@pytest.mark.parametrize(
    "question", ["<image>How many?", f"<image> {HOSTILE}", "What <image> is <image>?", "\ue000<image>"]
)
def test_the_chat_template_writes_the_markers_of_images_only(question: str, image: ImageFile) -> None:
    backend = model(chat_template=TEMPLATE)
    lm = make_lm(backend, TaskOptions(chat_template=True))
    n = 2 if question.startswith("What") else 1
    chat = [{"role": "system", "content": f"See {IMAGE} <image>."}, {"role": "user", "content": question}]
    prompts = [
        request("generate_until", lm.apply_chat_template(chat), {"until": []}, {"visual": [image] * n}),
        request(
            "generate_until",
            lm.apply_chat_template([*chat, {"role": "assistant", "content": "It <image>"}], False),
            {"until": []},
            {"visual": [image] * n},
            doc=1,
        ),
    ]
    lm.generate_until(prompts)
    before, *parts = question.split("<image>", n)
    system = f"[system]See {IMAGE} <image>..[user]"
    for asked, end in zip(backend.asked, (".[assistant]", ".[assistant]It <image>"), strict=True):
        assert "|".join(texts(asked.prompt, asked.images)) == (
            system + before.strip() + "".join(f"{BEFORE}|{AFTER}{part.strip()}" for part in parts) + end
        )
    # without images the placeholder stays text
    lm.generate_until([request("generate_until", lm.apply_chat_template(chat), {"until": []})])
    assert "<image>" in "".join(map(chr, backend.asked[-1].prompt))
    assert backend.asked[-1].images == ()


def test_the_template_of_a_text_model_is_rejected(image: ImageFile) -> None:
    lm = make_lm(model(chat_template=TEXT_TEMPLATE), TaskOptions(chat_template=True))
    prompt = lm.apply_chat_template([{"role": "user", "content": "<image>Q"}])
    with pytest.raises(
        ChatTemplateError, match="writes 0 of 1 images, so it is not the template of a model that takes"
    ):
        lm.generate_until([request("generate_until", prompt, {}, {"visual": [image]})])


def test_a_model_without_a_tower_is_rejected_before_any_answer(image: ImageFile) -> None:
    backend = LettersBackend()
    asked = [request("generate_until", "plain", {}), request("generate_until", "<image>", {}, {"visual": [image]})]
    with pytest.raises(
        InputError, match="task t: it uses images, which this model does not take; measure a vision-lang"
    ):
        make_lm(backend).generate_until(asked)
    assert backend.asked == []


def test_items_that_cannot_be_measured_are_named_before_any_answer(image: ImageFile, tmp_path: Path) -> None:
    (tmp_path / "long.png").write_bytes(png(32 * 300, 32))
    long, narrow = open_image(tmp_path / "long.png", "long.png"), {"visual": [image]}
    backend = model(max_length=90)
    settings = {"max_gen_toks": 30}
    room = 90 - 30 - 2 - len(BEFORE + AFTER)
    asked = [
        request("generate_until", "<image>" + "x" * room, settings, narrow, doc=0),
        request("generate_until", "<image>" + "x" * (room + 1), settings, narrow, doc=1),
        request("generate_until", "<image>", settings, {"visual": [long]}, doc=2),
        request("generate_until", "<image>", settings, {"visual": [Unusable("b.png: gone")]}, doc=3, task="u"),
        request("generate_until", "<image>", settings, {"visual": [image, image]}, doc=4),
    ]
    with pytest.raises(UnusableItems) as found:
        make_lm(backend).generate_until(asked)
    assert backend.asked == []
    reasons = found.value.reasons
    assert list(reasons) == [("t", 1), ("t", 2), ("u", 3), ("t", 4)]
    assert reasons["t", 1] == (
        "a.png: the prompt has 61 tokens, of which 2 are of images, and with an answer of 30 tokens it needs 91, but "
        "the context has 90"
    )
    assert reasons["t", 2].startswith("long.png: an image of 9600 x 32 pixels is too long and narrow")
    assert reasons["u", 3] == "b.png: gone"
    assert reasons["t", 4] == "the prompt has 2 images, but 1 placeholders (<image>)"
    assert make_lm(backend).generate_until(asked[:1]) == ["so"]
    scored = [request("loglikelihood", "<image>" + "x" * n, "abc", narrow, doc=n) for n in (60, 61)]
    with pytest.raises(UnusableItems) as found:  # all but the last token of the continuation have to fit
        make_lm(model(max_length=60 + 4 + len(BEFORE + AFTER))).loglikelihood(scored)
    assert list(found.value.reasons) == [("t", 61)]


DATA = """
import json
from pathlib import Path
from datasets import Dataset, DatasetDict, Features, Image, Value

def load(file, raw=False, **_):
    here = Path(__file__).parent
    rows = [json.loads(line) for line in (here / file).read_text().splitlines()]
    if not raw:
        return DatasetDict({"test": Dataset.from_list(rows)})
    for row in rows:
        row["picture"] = {"bytes": (here / row["picture"]).read_bytes(), "path": None}
    features = Features({"q": Value("string"), "a": Value("string"), "picture": Image()})
    return DatasetDict({"test": Dataset.from_list(rows, features)})

def grey(document):
    return [document["picture"].convert("L"), document["picture"]]
"""
TASK = """
custom_dataset: !function data.load
dataset_path: local
dataset_kwargs: {file: rows.jsonl%s}
test_split: test
output_type: generate_until
doc_to_image: %s
doc_to_text: "<image>%s{{q}}"
doc_to_target: "{{a}}"
generation_kwargs: {until: [], max_gen_toks: 4}
metric_list: [{metric: exact_match}]
"""
NAMES = ("good.png", "cut.png", "other.png", "../outside.png", "gone.png", "anim.gif", "text.png", "good.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "data.py").write_text(DATA)
    whole = png(640, 320, 9)
    files = {"good.png": png(), "cut.png": whole[:60], "other.png": png(32, 64), "text.png": b"<svg/>"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (tmp_path / "outside.png").write_bytes(png())
    frames = [Image.new("L", (32, 32), shade) for shade in (0, 90)]
    frames[0].save(folder / "anim.gif", save_all=True, append_images=frames[1:])
    rows = [{"q": f"Q{i}", "a": "so", "picture": name} for i, name in enumerate(NAMES)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    forms = {
        "look": ("", "[picture]", ""),
        "raw": (", raw: true", "picture", ""),
        "twice": (", raw: true", "!function data.grey", "<image>"),
    }
    for name, form in forms.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n" + TASK % form)
    (folder / "pair.yaml").write_text(
        "group: pair\ntask: [look, raw]\naggregate_metric_list: [{metric: exact_match}]\n"
    )
    return folder


def test_damaged_and_hostile_images_are_left_out_and_the_others_go_on(folder: Path) -> None:
    backend = model()
    run = run_task(backend, "look", TaskLocation(folder))
    assert [item.doc_id for item in run.items] == [0, 2, 7]
    assert [placed.image.name for asked in backend.asked for placed in asked.images] == [
        "good.png",
        "other.png",
        "good.png",
    ]
    assert (run.n, run.left_out, run.primary.value) == (3, 0, 1.0)
    assert [line.partition(":")[0] for line in run.unusable] == [f"item {i}" for i in (1, 3, 4, 5, 6)]
    cut, outside, gone, moving, text = run.unusable
    assert cut.startswith("item 1: cut.png: the image cannot be decoded")
    assert outside == f"item 3: ../outside.png: is outside the task's folder {folder}"
    assert gone == "item 4: gone.png: the image cannot be read (No such file or directory)"
    assert moving == "item 5: anim.gif: the image has 2 frames or pages; give a file with one"
    assert text.startswith("item 6: text.png: this is no image in a known format")
    assert _notes(run, TaskOptions()) == [f"left out: {line}" for line in run.unusable]


def test_the_first_items_are_those_of_the_file_whether_they_can_be_measured_or_not(folder: Path) -> None:
    run = run_task(model(), "look", TaskLocation(folder), TaskOptions(limit=3))
    assert ([item.doc_id for item in run.items], len(run.unusable)) == ([0, 2], 1)
    rows = (folder / "rows.jsonl").read_text().splitlines()
    (folder / "rows.jsonl").write_text("\n".join(rows[1:]))
    with pytest.raises(InputError, match=r"task look: no item of it can be measured; item 0: cut\.png: the image"):
        run_task(model(), "look", TaskLocation(folder), TaskOptions(limit=1))


def test_images_in_the_rows_of_a_data_set_are_decoded_one_by_one(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["picture"] in ("good.png", "cut.png", "other.png")]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, kept)))
    backend = model()
    run = run_task(backend, "raw", TaskLocation(folder))
    assert ([item.doc_id for item in run.items], len(run.unusable)) == ([0, 2, 3], 1)
    given = [placed.image.digest for asked in backend.asked for placed in asked.images]
    paths = model()
    run_task(paths, "look", TaskLocation(folder))
    assert given == [placed.image.digest for asked in paths.asked for placed in asked.images]
    both = model()
    twice = run_task(both, "twice", TaskLocation(folder))  # a function gets images of Pillow
    assert [item.doc_id for item in twice.items] == [0, 2, 3]
    assert [[placed.image.width for placed in asked.images] for asked in both.asked] == [[64, 64], [32, 32], [64, 64]]
    assert both.asked[0].images[1].image.digest == given[0]  # the same bytes, not encoded again
    assert both.asked[0].images[0].image.digest != given[0]
    group = run_task(model(), "pair", TaskLocation(folder))
    assert [line.partition(":")[0] for line in group.unusable] == ["item 1 of look", "item 1 of raw"]
    assert len(group.items) == 6


def test_questions_on_one_image_are_one_cluster(folder: Path) -> None:
    run = run_task(model(), "look", TaskLocation(folder))
    first, other, same = (item.cluster for item in run.items)
    assert first == same != other
    assert [item.cluster for item in run.items_of(run.primary)] == [first, other, same]


def test_another_image_is_another_question(folder: Path) -> None:
    def hashes() -> list[str]:
        run = run_task(model(), "look", TaskLocation(folder), TaskOptions(limit=3))
        return [item.doc_hash for item in run.items]

    before = hashes()
    assert hashes() == before
    (folder / "good.png").write_bytes(png(shade=200))
    assert hashes()[0] != before[0]
    assert hashes()[1] == before[1]


def test_a_template_that_writes_no_image_is_rejected_before_a_run(folder: Path) -> None:
    def check(template: str) -> None:
        vocabulary = model(chat_template=template)
        check_prompts(vocabulary, "look", TaskLocation(folder), TaskOptions(chat_template=True))

    check(TEMPLATE)
    with pytest.raises(ChatTemplateError, match="writes 0 of 1 images"):
        check(TEXT_TEMPLATE)


def test_what_a_task_may_give_as_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    cmyk = Image.new("CMYK", (32, 32))

    def images(value: Any, folder: Path | None = tmp_path) -> list[ImageFile | Unusable]:
        return ItemImages(lambda _: value, folder)({})

    for value in ("a.png", png(), {"bytes": png(), "path": "b.png"}, {"bytes": None, "path": "a.png"}, cmyk):
        (found,) = images(value)
        assert isinstance(found, ImageFile), value
    assert images(None) == images([]) == []
    assert len(images(["a.png", None, png()])) == 2
    refused: Mapping[str, Any] = {
        "doc_to_image gives int": 3,
        "its image: this is no image": b"nothing",
        "b.png: this is no image": {"bytes": b"", "path": "b.png"},
        "/etc/hostname: is outside": "/etc/hostname",
    }
    for reason, value in refused.items():
        (found,) = images(value)
        assert isinstance(found, Unusable)
        assert found.reason.startswith(reason)
    (found,) = images("a.png", None)
    assert isinstance(found, Unusable)
    assert found.reason == "a.png: is a path, but the data set of this task is in no folder"

    def fails(_: Any) -> Any:
        raise KeyError("picture")

    assert ItemImages(fails, tmp_path)({}) == [Unusable("doc_to_image fails: 'picture'")]
    (limited,) = ItemImages(lambda _: "a.png", tmp_path, (100, 200))({})
    assert isinstance(limited, ImageFile)
    assert limited.limits == (100, 200)
