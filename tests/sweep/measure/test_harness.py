"""Tasks give the same results as lm-eval's own Hugging Face model (HFLM) with the same float32 weights."""

from __future__ import annotations

import itertools
import json
import math
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.errors import InputError
from sweep.backends.base import Score
from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.items import LONGEST_TEXT
from sweep.measure import lm_eval_model, lm_eval_tasks
from sweep.measure.harness import check_prompts, check_task, run_task
from sweep.measure.lm_eval_model import make_lm
from sweep.measure.lm_eval_tasks import TaskLocation
from sweep.measure.task_options import MeasurementError, TaskOptions, ThinkingScoring

EXACT = {"type_k": "f32", "type_v": "f32", "flash_attn": "off"}
DATA = """
import json
from pathlib import Path
from datasets import Dataset, DatasetDict

def load(file, **_):
    rows = [json.loads(line) for line in (Path(__file__).parent / file).read_text().splitlines()]
    return DatasetDict({"test": Dataset.from_list(rows), "train": Dataset.from_list(rows[:4])})
"""
COMMON = """
custom_dataset: !function data.load
dataset_path: local
dataset_kwargs: {file: %s.jsonl}
test_split: test
"""
TASKS = {
    "choose": """
output_type: multiple_choice
fewshot_split: train
fewshot_config: {sampler: first_n}
doc_to_text: "Story: {{story}}"
doc_to_choice: "{{endings}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "letter": """
output_type: multiple_choice
doc_to_text: "{{story}} A or B?\\nAnswer:"
doc_to_choice: ["A", "B", "AB"]
doc_to_target: "{{label % 3}}"
metric_list: [{metric: acc}]
""",
    "write": """
output_type: generate_until
doc_to_text: "{{story}}\\nAnswer:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n", "a"], max_gen_toks: 24, do_sample: false}
filter_list:
  - {name: strict, filter: [{function: take_first}]}
  - name: letters
    filter:
      - {function: regex, regex_pattern: "([a-z]+)"}
      - {function: take_first}
metric_list: [{metric: exact_match}]
""",
    "roll": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{story}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
}
WORDS = ("boats", "the keeper", "12 apples", "Zoë", "def f(x):", "café", "left", " two  blanks", "你好", "🙂")


def documents() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)

    def some(n: int) -> str:
        return " ".join(rng.choice(WORDS, n))

    rows = []
    for i in range(24):
        endings = [f"{some(int(rng.integers(1, 6)))} {i}" for i in range(4)]  # all different: no ties
        story = some(int(rng.integers(2, 30))) + " " * (i % 3)  # lm-eval moves blanks at the end to the continuation
        rows.append({"story": story, "endings": endings, "label": int(rng.integers(4)), "answer": ""})
    rows[5]["story"] = some(400)  # longer than the context of 640 tokens
    return rows


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("tasks")
    (directory / "data.py").write_text(DATA)
    for name, body in TASKS.items():
        (directory / f"{name}.yaml").write_text(f"task: {name}\n{COMMON % name}{body}")
        (directory / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in documents()))
    (directory / "both.yaml").write_text(
        "group: both\ntask: [choose, letter]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    return directory


@pytest.fixture(scope="module")
def backend(tiny) -> Iterator[LlamaBackend]:
    backend = LlamaBackend(tiny.gguf, LlamaOptions(n_threads=1, slots=6, **EXACT))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def hf(tiny) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=tiny.hf, tokenizer=tiny.tokenizer, batch_size=4, device="cpu")


def evaluate_hf(hf: Any, tasks: Path, task: str, **options: Any) -> dict[str, Any]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=tasks, include_defaults=False)
    return lm_eval.simple_evaluate(model=hf, tasks=[task], task_manager=manager, bootstrap_iters=1000, **options)


def requests(arguments: list[tuple[Any, ...]], kind: str = "loglikelihood") -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, args, i, ("t", i, 1)) for i, args in enumerate(arguments)]


PAIRS = [
    ("The keeper counted", " seven boats"),
    ("The keeper counted ", "seven"),  # the blank moves over
    ("The keeper counted", " s"),
    ("", "an empty context"),
    ("", "<|im_end|>begins with the prefix token itself"),
    ("split 🙂", "\ufe0f👩‍💻 unicode"),
    ("café " * 300, "too long for the context"),
    ("short", " and a long continuation " * 30),
    ("<|im_start|>user\nHello<|im_end|>\n", "<|im_start|>assistant"),
]


def test_loglikelihoods_equal_those_of_hflm(backend, hf):
    ours = make_lm(backend).loglikelihood(requests(PAIRS))
    theirs = hf.loglikelihood(requests(PAIRS), disable_tqdm=True)
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in theirs], abs=1e-3)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_greedy_flags_equal_those_of_hflm_for_what_the_model_generates(tiny, backend, hf):
    context = "The keeper counted"
    tokens = tiny.tokenizer.encode(context)
    for _ in range(3):  # until the model generates a text that is tokenized to the same tokens again
        said = make_lm(backend).generate_until(requests([(context, {"max_gen_toks": 2})], "generate_until"))[0]
        if tiny.tokenizer.encode(context + said)[: len(tokens)] == tokens:
            break
        context, tokens = context + said, tiny.tokenizer.encode(context + said)
    pairs = requests([(context, said), (context, said + "x")])
    ours, theirs = make_lm(backend).loglikelihood(pairs), hf.loglikelihood(pairs, disable_tqdm=True)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert ours[0][1] is True


def test_rolling_loglikelihoods_equal_those_of_hflm(backend, hf):
    texts = requests([("The keeper counted seven boats.",), ("café boats 12 " * 300,)], "loglikelihood_rolling")
    assert make_lm(backend).loglikelihood_rolling(texts) == pytest.approx(
        hf.loglikelihood_rolling(texts, disable_tqdm=True),
        abs=1e-2,  # sums of up to 2,000 terms
    )


@pytest.mark.parametrize("task", ["choose", "letter", "roll"])
def test_scores_of_a_task_equal_those_of_hflm(backend, hf, tasks, task):
    theirs = evaluate_hf(hf, tasks, task)
    ours = run_task(backend, task, TaskLocation(tasks))
    assert {m.name for m in ours.metrics} == {m["metric"] for m in theirs["configs"][task]["metric_list"]}
    for metric in ours.metrics:
        assert metric.value == pytest.approx(theirs["results"][task][metric.key], rel=1e-5)
        stderr = theirs["results"][task][f"{metric.name}_stderr,{metric.filter}"]  # "N/A" for perplexities
        assert metric.stderr == (None if stderr == "N/A" else stderr)
    samples = sorted(theirs["samples"][task], key=lambda s: s["doc_id"])
    assert [(i.doc_id, i.doc_hash, i.prompt_hash) for i in ours.items] == [
        (s["doc_id"], s["doc_hash"], s["prompt_hash"]) for s in samples
    ]
    if task != "roll":
        assert [i.values["acc,none"] for i in ours.items] == [s["acc"] for s in samples]
        assert [int(i.answers["none"]) for i in ours.items] == [
            int(np.argmax([r[0] for r in s["filtered_resps"]])) for s in samples
        ]
        assert ours.chance == pytest.approx({"choose": 1 / 4, "letter": 1 / 3}[task])
        assert 0.0 < ours.primary.value < 1.0


def test_generations_of_a_task_equal_those_of_hflm(backend, hf, tasks):
    rows = documents()
    for item in run_task(backend, "write", TaskLocation(tasks)).items[::2]:
        rows[item.doc_id]["answer"] = item.answers["strict"]  # so that half of the answers are right
    (tasks / "write.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    theirs = evaluate_hf(hf, tasks, "write")
    ours = run_task(backend, "write", TaskLocation(tasks))
    assert ours.questions[3].text == f"{rows[3]['story']}\nAnswer:"
    assert (ours.questions[2].target, ours.questions[2].choices) == (rows[2]["answer"], ())
    long = ours.questions[5].text
    assert len(long) == LONGEST_TEXT < len(rows[5]["story"])
    assert long[0] == "…"
    assert f"{rows[5]['story']}\nAnswer:".endswith(long[1:])
    assert [m.key for m in ours.metrics] == ["exact_match,strict", "exact_match,letters"]
    assert ours.primary.value >= 0.5
    assert ours.chance == 0.0
    for metric in ours.metrics:
        assert metric.value == theirs["results"]["write"][metric.key]
        assert metric.stderr == pytest.approx(theirs["results"]["write"][f"exact_match_stderr,{metric.filter}"])
    said = {(s["doc_id"], s["filter"]): s["filtered_resps"][0] for s in theirs["samples"]["write"]}
    assert {(i.doc_id, f): text for i in ours.items for f, text in i.answers.items()} == said
    values = {(s["doc_id"], f"exact_match,{s['filter']}"): s["exact_match"] for s in theirs["samples"]["write"]}
    assert {(i.doc_id, key): value for i in ours.items for key, value in i.values.items()} == values


def test_few_shot_prompts_and_limits_equal_those_of_hflm(backend, hf, tasks):
    theirs = evaluate_hf(hf, tasks, "choose", num_fewshot=2, limit=5)
    seen: list[tuple[int, int, str]] = []
    ours = run_task(
        backend, "choose", TaskLocation(tasks), TaskOptions(num_fewshot=2, limit=5), lambda *at: seen.append(at)
    )
    assert (ours.n, ours.num_fewshot) == (5, 2)
    assert [i.prompt_hash for i in ours.items] == [s["prompt_hash"] for s in theirs["samples"]["choose"]]
    assert ours.primary.value == theirs["results"]["choose"]["acc,none"]
    assert seen[-1] == (20, 20, "choose")
    rows = documents()[:5]
    questions = ours.questions  # without the examples
    assert [q.text for q in questions] == [f"Story: {row['story']}" for row in rows]
    assert [q.choices for q in questions] == [tuple(row["endings"]) for row in rows]
    assert [q.target for q in questions] == [row["endings"][row["label"]] for row in rows]
    assert [(q.subject, q.doc_hash, q.prompt_hash) for q in questions] == [
        (i.task, i.doc_hash, i.prompt_hash) for i in ours.items
    ]
    assert questions[0].answer("2") == rows[0]["endings"][2]


def test_chat_prompts_equal_those_of_the_tokenizer(tiny, backend, tasks):
    history = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "So"}]
    adapter = make_lm(backend)
    for n, generation in ((1, True), (2, False)):
        assert adapter.apply_chat_template(history[:n], generation) == tiny.tokenizer.apply_chat_template(
            history[:n], tokenize=False, add_generation_prompt=generation, continue_final_message=not generation
        )
    run = run_task(backend, "write", TaskLocation(tasks), TaskOptions(limit=2, chat_template=True))
    assert (
        run.items[0].prompt_hash
        != run_task(backend, "write", TaskLocation(tasks), TaskOptions(limit=1)).items[0].prompt_hash
    )


def test_a_group_has_the_items_and_the_mean_score_of_its_tasks(backend, tasks):
    group = run_task(backend, "both", TaskLocation(tasks))
    parts = [run_task(backend, name, TaskLocation(tasks)) for name in ("choose", "letter")]
    assert [i.task for i in group.items] == ["choose"] * 24 + ["letter"] * 24
    assert group.primary.value == pytest.approx(np.mean([p.primary.value for p in parts]))
    assert [i.values["acc,none"] for i in group.items] == [i.values["acc,none"] for p in parts for i in p.items]


def test_local_tasks_use_no_network_and_print_nothing(backend, tasks, monkeypatch, capfd):
    def refuse(*_: Any) -> None:
        raise AssertionError("a local task opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    run_task(backend, "choose", TaskLocation(tasks), TaskOptions(limit=3))
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_tasks_that_cannot_run_are_rejected(backend, tasks, tmp_path):
    with pytest.raises(InputError, match=r"unknown task 'chose'; known in .*choose"):
        run_task(backend, "chose", TaskLocation(tasks))
    with pytest.raises(InputError, match="no such directory"):
        run_task(backend, "choose", TaskLocation(tmp_path / "absent"))
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "lost.yaml").write_text(f"task: lost\n{COMMON % 'lost'}{TASKS['letter']}")
    with pytest.raises(InputError, match=r"task lost: the task or its data cannot be loaded: .*lost\.jsonl"):
        run_task(backend, "lost", TaskLocation(tmp_path))
    sampled = TASKS["write"].replace("do_sample: false", "do_sample: true, temperature: 1.0")
    (tmp_path / "dice.yaml").write_text(f"task: dice\n{COMMON % 'dice'}{sampled}")
    (tmp_path / "dice.jsonl").write_text(json.dumps(documents()[0]))
    lm_eval_tasks._indexed.cache_clear()
    with pytest.raises(InputError, match="it samples its answers; only greedy"):
        run_task(backend, "dice", TaskLocation(tmp_path))


def test_an_unknown_name_is_rejected_without_indexing_all_tasks(monkeypatch):
    indexed, real = [], lm_eval_tasks._indexed
    monkeypatch.setattr(lm_eval_tasks, "_indexed", lambda folder: indexed.append(folder) or real(folder))
    with pytest.raises(InputError, match="unknown task 'arc_eesy'; did you mean arc_easy,"):
        check_task("arc_eesy")
    assert None not in indexed


def test_the_gold_probability_is_the_softmax_over_the_choices(backend, hf, tasks):
    theirs = evaluate_hf(hf, tasks, "choose")["samples"]["choose"]
    ours = run_task(backend, "choose", TaskLocation(tasks))
    for item, sample in zip(ours.items, sorted(theirs, key=lambda s: s["doc_id"]), strict=True):
        shares = np.exp([response[0] for response in sample["filtered_resps"]])
        assert item.gold_probability == pytest.approx(shares[int(sample["target"])] / shares.sum(), rel=1e-3)
    assert {item.gold_probability for item in run_task(backend, "write", TaskLocation(tasks)).items} == {None}


def test_a_tag_and_a_group_without_aggregation_weight_their_tasks_by_size(backend, tmp_path):
    (tmp_path / "data.py").write_text(DATA)
    rows = documents()
    for name, n in (("choose", 20), ("letter", 5)):
        body = f"task: {name}\ntag: all_of_it\n{COMMON % name}{TASKS[name]}"
        (tmp_path / f"{name}.yaml").write_text(body)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows[:n]))
    (tmp_path / "plain.yaml").write_text("group: plain\ntask: [choose, letter]\n")
    (tmp_path / "single.yaml").write_text("group: single\ntask: [letter]\n")
    parts = [run_task(backend, name, TaskLocation(tmp_path)) for name in ("choose", "letter")]
    expected = np.average([part.metrics[0].value for part in parts], weights=[20, 5])
    for name in ("all_of_it", "plain"):
        run = run_task(backend, name, TaskLocation(tmp_path))
        assert (run.primary.name, run.n) == ("acc", 25)
        assert run.primary.value == pytest.approx(expected)
        assert run.primary.stderr is not None
    assert run_task(backend, "single", TaskLocation(tmp_path)).metrics == parts[1].metrics


class ChangedBackend:
    """A backend with some attributes replaced."""

    def __init__(self, backend: LlamaBackend, **changes: Any) -> None:
        self._backend, self._changes = backend, changes

    def __getattr__(self, name: str) -> Any:
        return self._changes.get(name) or getattr(self._backend, name)


def test_a_figure_that_is_nan_fails_with_one_line(backend, tasks, tmp_path):
    broken = ChangedBackend(backend, loglikelihoods=lambda given, progress: [Score(math.nan, False) for _ in given])
    with pytest.raises(MeasurementError, match="96 of 96 log-likelihoods are not numbers"):
        run_task(broken, "choose", TaskLocation(tasks))
    (tmp_path / "data.py").write_text(DATA + "\ndef score(doc, results):\n    return {'acc': float('nan')}\n")
    body = TASKS["write"].partition("filter_list")[0] + "metric_list: [{metric: acc, aggregation: mean}]\n"
    (tmp_path / "none.yaml").write_text(f"task: none\n{COMMON % 'none'}{body}process_results: !function data.score\n")
    (tmp_path / "none.jsonl").write_text("\n".join(json.dumps(row) for row in documents()[:2]))
    with pytest.raises(MeasurementError, match=r"task none: its acc is not a number \(nan\)"):
        run_task(backend, "none", TaskLocation(tmp_path))


def test_sub_tasks_run_one_after_another_and_progress_names_them(backend, tasks, monkeypatch):
    monkeypatch.setattr(lm_eval_model, "PART_REQUESTS", 50)
    seen: list[tuple[int, int, str]] = []
    run = run_task(backend, "both", TaskLocation(tasks), progress=lambda *at: seen.append(at))
    assert [name for name, _ in itertools.groupby(name for *_, name in seen)] == ["choose", "letter"]
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)
    assert seen[-1] == (24 * 4 + 24 * 3, 24 * 4 + 24 * 3, "letter")
    monkeypatch.undo()
    assert [item.answers for item in run.items] == [
        i.answers for i in run_task(backend, "both", TaskLocation(tasks)).items
    ]


CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHAT_TEMPLATE.replace(
    "<|im_start|>assistant\n",
    "<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}",
)


@pytest.fixture(scope="module")
def thinker(tiny, hf) -> Any:
    """A model whose template supports thinking; `end` is a text that this random model generates."""
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny.directory)
    tokenizer.chat_template = THINKING

    def make(thinking: bool, end: str) -> Any:
        options = {"enable_thinking": thinking, "think_end_token": end}
        return HFLM(pretrained=tiny.hf, tokenizer=tokenizer, batch_size=1, device="cpu", **options)

    return make


@pytest.mark.parametrize("thinking", [True, False])
def test_reasoning_is_removed_as_hflm_removes_it(backend, thinker, thinking, monkeypatch):
    model = ChangedBackend(backend, chat_template=THINKING)
    history = [{"role": "user", "content": "Mara bought 12 apples"}]
    options = TaskOptions(chat_template=True, thinking=thinking, thinking_scoring=ThinkingScoring.LM_EVAL)
    prompt = make_lm(model, options).apply_chat_template(history)
    assert prompt.endswith("<think></think>") is not thinking
    said = make_lm(backend).generate_until(requests([(prompt, {"max_gen_toks": 40, "until": []})], "generate_until"))[0]
    end, stop = said[len(said) // 2 : len(said) // 2 + 2], said[-3:-1]
    monkeypatch.setattr(lm_eval_model, "THINK_END", end)
    theirs = thinker(thinking, end)
    assert theirs.apply_chat_template(history) == prompt
    lm_requests = requests([(prompt, {"max_gen_toks": 40, "until": []})], "generate_until")
    ours = make_lm(model, options)
    answered = ours.generate_until(lm_requests)
    assert answered == theirs.generate_until(lm_requests, disable_tqdm=True)
    assert answered == [said.split(end)[-1].lstrip()] != [said]
    assert (ours.max_gen_toks_used, ours.unfinished) == (40, 1)
    # a stop string ends the answer, but not the reasoning
    lm_requests = requests([(prompt, {"max_gen_toks": 40, "until": [said[:2], stop]})], "generate_until")
    answer = said.split(end)[-1].lstrip().split(said[:2])[0].split(stop)[0]
    assert make_lm(model, options).generate_until(lm_requests) == [answer]


def test_thinking_is_rejected_if_the_task_or_template_does_not_support_it(backend, tasks):
    on = TaskOptions(chat_template=True, thinking=True)
    with pytest.raises(InputError, match="task choose: a multiple-choice task cannot run with --thinking on"):
        run_task(ChangedBackend(backend, chat_template=THINKING), "choose", TaskLocation(tasks), on)
    with pytest.raises(InputError, match="does not support thinking"):
        run_task(ChangedBackend(backend, chat_template=CHAT_TEMPLATE), "write", TaskLocation(tasks), on)


def test_max_gen_toks_limits_answers_and_fails_if_it_exceeds_the_context(backend, tasks):
    short = run_task(backend, "write", TaskLocation(tasks), TaskOptions(limit=2, max_gen_toks=3))
    assert (short.max_gen_toks, short.unfinished) == (3, 2)
    assert run_task(backend, "write", TaskLocation(tasks), TaskOptions(limit=2)).max_gen_toks == 24
    with pytest.raises(
        MeasurementError,
        match=r"task write generates up to 9000 tokens, .* context of 640 tokens; give a lower limit with",
    ):
        run_task(backend, "write", TaskLocation(tasks), TaskOptions(limit=2, max_gen_toks=9000))


STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHAT_TEMPLATE


def test_the_text_of_a_rejected_system_message_begins_the_first_message_of_the_user(backend):
    history = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    strict, plain = (make_lm(ChangedBackend(backend, chat_template=one)) for one in (STRICT, CHAT_TEMPLATE))
    merged = [{"role": "user", "content": "Be brief.\n\nHello"}]
    assert strict.apply_chat_template(history) == plain.apply_chat_template(merged)
    assert plain.apply_chat_template(history) != plain.apply_chat_template(merged)
    assert (strict.moved_system, plain.moved_system) == (True, False)


def test_a_moved_system_message_is_reported(backend, tasks, tmp_path):
    for file in tasks.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_text(file.read_text())
    described = tmp_path / "letter.yaml"
    described.write_text(described.read_text() + "description: Choose a letter.\n")
    strict, options = ChangedBackend(backend, chat_template=STRICT), TaskOptions(limit=1, chat_template=True)
    assert run_task(strict, "letter", TaskLocation(tmp_path), options).moved_system
    assert not run_task(strict, "letter", TaskLocation(tasks), options).moved_system


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('No user query found in messages.') }}", "fails: No user query found in messages."),
        ("{% for m in messages %}\n{{ m }", "fails in line 2: unexpected '}'"),
        ("{{ nothing.here }}", "fails: 'nothing' is undefined"),
        ("{{ messages[0]['content'] + 1 }}", "fails: can only concatenate str"),
    ],
)
def test_a_template_that_fails_is_rejected_in_its_own_words(backend, tasks, template, message):
    model = ChangedBackend(backend, chat_template=template)
    for name in ("choose", "write"):
        with pytest.raises(InputError, match=re.escape(f"the chat template {message}")):
            check_prompts(model, name, TaskLocation(tasks), TaskOptions(chat_template=True))


def test_prompts_are_checked_without_a_model_that_answers(backend, tasks):
    class Vocabulary:
        """Nothing that could answer."""

        chat_template, eos_id, bos_id, add_bos = CHAT_TEMPLATE, backend.eos_id, backend.bos_id, backend.add_bos
        detokenize = staticmethod(backend.detokenize)

    for name in ("both", "write", "roll"):
        check_prompts(Vocabulary(), name, TaskLocation(tasks), TaskOptions(chat_template=True, num_fewshot=1))


def test_code_of_a_model_runs_only_if_allowed(tmp_path, backend):
    (tmp_path / "own.py").write_text(
        "import evaluate\ncode = evaluate.load('code_eval')\n"
        "def passes(references, predictions, k=None):\n"
        "    return code.compute(references=references, predictions=[[p] for p in predictions], k=[1])[0]\n"
        "def other(references, predictions):\n    return 1.0\n"
    )
    (tmp_path / "data.py").write_text(DATA)
    for name, metric in (("restricted", "own.passes"), ("unrestricted", "data.load")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(documents()[0]))
        body = TASKS["write"].partition("filter_list")[0]
        metrics = f"metric_list: [{{metric: !function {metric}, aggregation: mean, higher_is_better: true}}]\n"
        (tmp_path / f"{name}.yaml").write_text(f"task: {name}\nunsafe_code: true\n{COMMON % name}{body}{metrics}")
    with pytest.raises(InputError, match="task restricted: it runs code that the model writes; --allow-code-execution"):
        check_task("restricted", TaskLocation(tmp_path))
    check_task("restricted", TaskLocation(tmp_path), TaskOptions(allow_code=True))
    check_prompts(backend, "restricted", TaskLocation(tmp_path), TaskOptions(allow_code=True))
    run = run_task(backend, "restricted", TaskLocation(tmp_path), TaskOptions(allow_code=True))
    assert run.primary.name == "pass@1"
    with pytest.raises(InputError, match=r"task unrestricted: it runs code .* without the restrictions"):
        check_task("unrestricted", TaskLocation(tmp_path), TaskOptions(allow_code=True))


def test_tasks_of_lm_eval_are_found_without_indexing_all_of_them(monkeypatch):
    folders, indexed = [], lm_eval_tasks._indexed
    monkeypatch.setattr(lm_eval_tasks, "_indexed", lambda folder: folders.append(folder) or indexed(folder))
    for task in ("gsm8k", "mmlu", "boolq", "arc_challenge"):
        assert task in lm_eval_tasks._manager(task, TaskLocation()).task_index
    assert None not in folders  # which would take seconds
