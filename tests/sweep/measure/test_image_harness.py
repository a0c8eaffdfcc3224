"""Tasks with images give the answers of transformers' own model, in torch and in llama.cpp."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from vision_models import make_vision_model, save_image

from converters.errors import InputError
from converters.export import export
from converters.projector_source import ProjectorSource
from converters.resolver import open_source
from images.file import ImageFile, open_image
from images.preprocessing import Preprocessing, read_preprocessing
from sweep.backends import prompt_images
from sweep.backends.base import Backend
from sweep.backends.image_options import ImageOptions
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.backends.torch import TorchBackend, TorchOptions
from sweep.measure.answers import right_answers
from sweep.measure.harness import run_task
from sweep.measure.image_divergence import compare_answers, write_answers
from sweep.measure.lm_eval_tasks import TaskLocation
from sweep.measure.reference import open_reference
from sweep.measure.task_options import TaskOptions

torch.set_num_threads(1)
MARKERS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
TEMPLATE = (  # of Qwen2.5-VL, as far as it concerns images
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DATA = """
import json
from pathlib import Path
from datasets import Dataset, DatasetDict

def load(**_):
    rows = [json.loads(line) for line in (Path(__file__).parent / "rows.jsonl").read_text().splitlines()]
    return DatasetDict({"test": Dataset.from_list(rows)})
"""
COMMON = """
custom_dataset: !function data.load
dataset_path: local
test_split: test
doc_to_image: pictures
doc_to_text: "{{prompt}}"
"""
TASKS = {
    "write": "output_type: generate_until\ndoc_to_target: x\n"
    "generation_kwargs: {until: [], max_gen_toks: 6}\nmetric_list: [{metric: exact_match}]\n",
    "choose": "output_type: multiple_choice\ndoc_to_choice: [' red', ' blue fish', ' two']\ndoc_to_target: 1\n"
    "metric_list: [{metric: acc}]\n",
}
ROWS = [
    {"prompt": "<image>What is the sum?", "pictures": ["a.png"]},
    {"prompt": "<image>Which one is it?", "pictures": ["a.png"]},
    {"prompt": "First <image> and then <image>: compare", "pictures": ["b.png", "a.png"]},
    {"prompt": "<image>", "pictures": ["sub/c.png"]},
]
LLAMA = LlamaOptions(n_threads=1, type_k="f32", type_v="f32", flash_attn="off", slots=3)


@dataclass(frozen=True)
class Case:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    preprocessing: Preprocessing
    directory: Path
    tasks: Path

    def open(self, engine: str) -> Backend:
        images = ImageOptions(self.preprocessing)
        if engine == "torch":
            return TorchBackend.open(self.directory, dtype="float32", options=TorchOptions(slots=3), images=images)
        with_projector = replace(images, projector=self.directory / "mmproj.gguf")
        return LlamaBackend(self.directory / "text.gguf", replace(LLAMA, images=with_projector))

    def inputs(self, row: dict[str, Any], answer: str = "", *, chat: bool) -> dict[str, Any]:
        """What transformers' processor gives the model for an item with an answer."""
        *texts, last = row["prompt"].split("<image>")
        if chat:
            content: list[dict[str, str]] = []
            for text in texts:
                content += [{"type": "text", "text": text}] if text else []
                content.append({"type": "image"})
            content += [{"type": "text", "text": last}] if last else []
            prompt = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
        else:
            prompt = "".join(f"{text}<|vision_start|><|image_pad|><|vision_end|>" for text in texts) + last
        pieces = (prompt + answer).split("<|image_pad|>")
        patches, grids = [], []
        text = pieces[0]
        for name, piece in zip(row["pictures"], pieces[1:], strict=True):
            image = open_image(self.tasks / name)
            grid = self.preprocessing.grid(image)
            grids.append([1, 2 * grid.rows, 2 * grid.columns])
            patches.append(torch.from_numpy(self.preprocessing.patches(self.preprocessing.resized(image))))
            text += "<|image_pad|>" * grid.tokens + piece
        tokens = self.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        pad = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        return {
            "input_ids": tokens,
            "pixel_values": torch.cat(patches),
            "image_grid_thw": torch.tensor(grids),
            "mm_token_type_ids": (tokens == pad).int(),
        }

    def generated(self, row: dict[str, Any], *, chat: bool) -> str:
        inputs = self.inputs(row, chat=chat)
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, do_sample=False, max_new_tokens=6)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        return self.tokenizer.decode(new, skip_special_tokens=True)

    def logprob(self, row: dict[str, Any], answer: str) -> float:
        inputs = self.inputs(row, answer, chat=False)
        tokens = inputs["input_ids"][0]
        n = len(tokens) - len(self.inputs(row, chat=False)["input_ids"][0])
        with torch.inference_mode():
            logits = self.model(**inputs).logits[0].float().log_softmax(-1)
        return float(sum(logits[-n - 1 + i, tokens[len(tokens) - n + i]] for i in range(n)))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    directory = tmp_path_factory.mktemp("vision")
    model = make_vision_model("qwen3vl", directory)
    tokenizer = make_tokenizer(directory, vocab=480)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKERS)})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)
    start, end, pad = (tokenizer.convert_tokens_to_ids(marker) for marker in MARKERS)
    model.config.vision_start_token_id, model.config.vision_end_token_id = start, end
    model.config.image_token_id = pad
    model.save_pretrained(directory)
    export(open_source(directory), {"F32": directory / "text.gguf"})
    export(ProjectorSource(open_source(directory)), {"F32": directory / "mmproj.gguf"})
    tasks = directory / "tasks"
    (tasks / "sub").mkdir(parents=True)
    for seed, (name, size) in enumerate({"a.png": (200, 120), "b.png": (64, 300), "sub/c.png": (130, 130)}.items()):
        save_image(tasks / name, *size, seed)
    (tasks / "data.py").write_text(DATA)
    (tasks / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    for name, text in TASKS.items():
        (tasks / f"{name}.yaml").write_text(f"task: {name}\n{COMMON}{text}")
    return Case(model, tokenizer, read_preprocessing(directory), directory, tasks)


@pytest.mark.parametrize("engine", ["torch", "llama.cpp"])
def test_answers_are_those_of_transformers(engine: str, case: Case) -> None:
    backend = case.open(engine)
    for chat in (False, True):
        run = run_task(backend, "write", TaskLocation(case.tasks), TaskOptions(chat_template=chat))
        own = [item.answers["none"] for item in run.items]
        expected = [case.generated(row, chat=chat) for row in ROWS]
        assert own == expected
        assert len(set(own)) > 2
        assert [question.text for question in run.questions] == [row["prompt"] for row in ROWS]
        assert [[image.path for image in question.images] for question in run.questions] == [
            row["pictures"] for row in ROWS
        ]
        assert run.questions[0].images[0].digest == sha256((case.tasks / "a.png").read_bytes()).hexdigest()
    run = run_task(backend, "choose", TaskLocation(case.tasks), TaskOptions())
    choices = [" red", " blue fish", " two"]
    for item, row in zip(run.items, ROWS, strict=True):
        scores = torch.tensor([case.logprob(row, choice) for choice in choices])
        assert item.gold_probability == pytest.approx(float(scores.softmax(0)[1]), abs=2e-3)
        assert item.answers["none"] == str(int(scores.argmax()))
    backend.close()


def test_divergence_at_the_tokens_of_right_answers_is_that_of_transformers_logits(case: Case, tmp_path: Path) -> None:
    """The variant's logits are those of the reference times 1.1."""
    where, options = TaskLocation(case.tasks), TaskOptions()
    reference, changed = case.open("torch"), case.open("torch")
    changed._model.lm_head.weight.data.mul_(1.1)  # type: ignore[attr-defined]
    for task, answer in {"choose": "  blue fish", "write": " x"}.items():  # after the blank between prompt and target
        answers = right_answers(reference, task, where, options)
        assert len(answers) == len(ROWS)
        write_answers(reference, answers, tmp_path / task, lambda *_: None)
        stored = open_reference(tmp_path / task)
        found = compare_answers(changed, right_answers(changed, task, where, options), stored, lambda *_: None)
        expected, same = [], []
        for row in ROWS:
            inputs = case.inputs(row, answer, chat=False)
            n = len(inputs["input_ids"][0]) - len(case.inputs(row, chat=False)["input_ids"][0])
            with torch.inference_mode():
                logits = case.model(**inputs).logits[0, -n - 1 : -1].double()
            p, q = logits.log_softmax(-1), (1.1 * logits).log_softmax(-1)
            expected.append((p.exp() * (p - q)).sum(-1))
            same.append(n)
        assert found.tokens == sum(same)
        assert found.kld_mean == pytest.approx(float(torch.cat(expected).mean()), rel=1e-3)
        assert (found.answers, found.images, found.top1_agreement) == (4, 3, 1.0)
        assert found.kld_low is not None
        assert found.kld_low < found.kld_mean < (found.kld_high or 0)
        own = compare_answers(case.open("llama.cpp"), answers, stored, lambda *_: None)
        assert own.kld_mean < 1e-4 < found.kld_mean
    with pytest.raises(InputError, match="made from another text, context or tokenizer"):
        compare_answers(changed, answers[:-1], open_reference(tmp_path / "choose"), lambda *_: None)


@pytest.mark.parametrize("engine", ["torch", "llama.cpp"])
def test_questions_on_one_image_come_together_and_it_is_encoded_once(
    engine: str, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_images, "HELD_BYTES", 1)  # only the last image is kept
    names = ["a.png", "d.png", "e.png"]  # of one size, so that the lengths of prompts do not tell them apart
    rows = [{"prompt": "<image>" + "Question about it " * (1 + i // 3), "pictures": [names[i % 3]]} for i in range(12)]
    tasks = tmp_path / "tasks"
    shutil.copytree(case.tasks, tasks)
    for seed, name in enumerate(names[1:], 7):
        save_image(tasks / name, 200, 120, seed)
    (tasks / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    backend: Any = case.open(engine)
    encoded: list[str] = []
    encode = backend._encoder.encode

    def counted(image: ImageFile) -> Any:
        encoded.append(image.name)
        return encode(image)

    monkeypatch.setattr(backend._encoder, "encode", counted)
    for name in ("write", "choose"):
        encoded.clear()
        run = run_task(backend, name, TaskLocation(tasks), TaskOptions())
        assert [item.doc_id for item in run.items] == list(range(12))
        assert sorted(encoded) == sorted(names), name
    backend.close()
