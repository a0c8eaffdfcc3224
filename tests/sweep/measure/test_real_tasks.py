"""lm-eval's own tasks with local data give the same results as lm-eval's Hugging Face model (HFLM).

Compared are prompts, log-likelihoods, generations and scores. A Qwen3 model with random weights and Qwen2's tokenizer
answers real questions, in float32 in both programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweep.backends.llama import LlamaBackend, LlamaOptions
from sweep.measure.code_eval import CodeEval
from sweep.measure.harness import run_task
from sweep.measure.lm_eval_model import make_lm
from sweep.measure.lm_eval_tasks import TaskLocation, load_task, quiet
from sweep.measure.local_data import read_jsonl
from sweep.measure.task_options import TaskOptions

SHARED = Path(__file__).parents[4] / "shared"
TOKENIZER = SHARED / "reference" / "tokenizers" / "qwen2"
pytestmark = pytest.mark.skipif(
    not (SHARED / "data").is_dir() or not TOKENIZER.is_dir(), reason="needs the evaluation data and Qwen2's tokenizer"
)
NEW_TOKENS = 20
SLOW = ("arc_easy", "boolq", "mmlu_social_sciences", "gsm8k_cot", "humaneval")


def place(data: str) -> TaskLocation:
    return TaskLocation(data=SHARED / "data" / data, data_name=data)


@pytest.fixture(scope="module")
def real(make_model: Callable[..., Any]) -> Any:
    from transformers import AutoTokenizer

    return make_model(
        "real",
        n_vocab=151_936,
        tokenizer=AutoTokenizer.from_pretrained(TOKENIZER),
        scale=0.15,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=2048,
    )


@pytest.fixture(scope="module")
def backend(real: Any) -> Iterator[LlamaBackend]:
    options = LlamaOptions(n_threads=2, slots=4, type_k="f32", type_v="f32", flash_attn="off")
    backend = LlamaBackend(real.gguf, options)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def hf(real: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=real.hf, tokenizer=real.tokenizer, batch_size=1, device="cpu")


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, args, i, ("t", i, 1)) for i, args in enumerate(arguments)]


def evaluate(lm: Any, task: str, where: TaskLocation, options: TaskOptions) -> dict[str, Any]:
    """lm-eval's results and samples of the task for any model."""
    import lm_eval

    with quiet(offline=True):
        loaded = load_task(task, where, options)
        results: dict[str, Any] = lm_eval.simple_evaluate(
            model=lm,
            tasks=[loaded.root],
            task_manager=loaded.manager,
            limit=options.limit,
            num_fewshot=options.num_fewshot,
            apply_chat_template=options.chat_template,
            gen_kwargs=None if options.max_gen_toks is None else {"max_gen_toks": options.max_gen_toks},
            confirm_run_unsafe_code=options.allow_code,
            bootstrap_iters=1000,
        )
    return results


CHOOSING = {
    "hellaswag": ("hellaswag", TaskOptions(limit=2, num_fewshot=1)),
    "arc_easy": ("arc_easy", TaskOptions(limit=4, num_fewshot=1)),
    "boolq": ("boolq", TaskOptions(limit=3)),
    "mmlu_social_sciences": ("mmlu", TaskOptions(limit=2, num_fewshot=0)),
    "mmlu_anatomy": ("mmlu", TaskOptions(limit=2, num_fewshot=2, chat_template=True)),
}


@pytest.mark.parametrize("task", [pytest.param(task, marks=[pytest.mark.slow] * (task in SLOW)) for task in CHOOSING])
@pytest.mark.slow
def test_multiple_choice_scores_equal_those_of_hflm(backend: LlamaBackend, hf: Any, task: str) -> None:
    data, options = CHOOSING[task]
    theirs = evaluate(hf, task, place(data), options)
    samples = [sample for leaf in theirs["samples"].values() for sample in leaf]
    expected = [
        (argument, resp[0])
        for sample in samples
        for argument, resp in zip(sample["arguments"], sample["resps"], strict=True)
    ]
    ours = make_lm(backend).loglikelihood(requests("loglikelihood", [pair for pair, _ in expected]))
    assert len(ours) >= 2 * len(samples)
    np.testing.assert_allclose([score for score, _ in ours], [answer[0] for _, answer in expected], atol=1e-3, rtol=0)
    assert [greedy for _, greedy in ours] == [answer[1] for _, answer in expected]
    run = run_task(backend, task, place(data), options)
    assert run.n == len(samples)
    for metric in run.metrics:
        assert metric.value == pytest.approx(theirs["results"][task][metric.key], abs=1e-12)
        assert metric.stderr == pytest.approx(theirs["results"][task][f"{metric.name}_stderr,{metric.filter}"])
    by_doc = {(leaf, s["doc_id"]): s for leaf, found in theirs["samples"].items() for s in found}
    for item in run.items:
        sample = by_doc[item.task, item.doc_id]
        assert (item.doc_hash, item.prompt_hash) == (sample["doc_hash"], sample["prompt_hash"])
        logprobs = np.array([response[0] for response in sample["filtered_resps"]])
        assert int(item.answers["none"]) == int(logprobs.argmax())
        shares = np.exp(logprobs - logprobs.max())
        gold = int(sample["target"])
        assert item.gold_probability == pytest.approx(shares[gold] / shares.sum(), rel=2e-3)


WRITING = {
    "gsm8k": ("gsm8k", TaskOptions(limit=3, num_fewshot=2, max_gen_toks=NEW_TOKENS)),
    "gsm8k_cot": ("gsm8k", TaskOptions(limit=2, max_gen_toks=NEW_TOKENS, chat_template=True)),
    "humaneval": ("humaneval", TaskOptions(limit=2, max_gen_toks=NEW_TOKENS, allow_code=True)),
    "ifeval": ("ifeval", TaskOptions(limit=3, max_gen_toks=NEW_TOKENS, chat_template=True)),
}


@pytest.mark.parametrize("task", [pytest.param(task, marks=[pytest.mark.slow] * (task in SLOW)) for task in WRITING])
def test_generations_equal_those_of_hflm(backend: LlamaBackend, hf: Any, task: str) -> None:
    if task == "ifeval":
        pytest.importorskip("langdetect")
        pytest.importorskip("immutabledict")
    data, options = WRITING[task]
    theirs = evaluate(hf, task, place(data), options)
    run = run_task(backend, task, place(data), options)
    assert run.max_gen_toks == NEW_TOKENS
    for metric in run.metrics:
        assert metric.value == theirs["results"][task][metric.key]
    samples = theirs["samples"][task]
    assert {item.prompt_hash for item in run.items} == {sample["prompt_hash"] for sample in samples}
    said = [sample["resps"][0][0] for sample in samples]
    assert any(said)  # the random model generates some text
    lm_requests = requests("generate_until", [sample["arguments"][0] for sample in samples])
    assert make_lm(backend, options).generate_until(lm_requests) == said
    for item in run.items:
        for name, value in item.values.items():
            metric, _, answer_filter = name.partition(",")
            sample = next(s for s in samples if s["doc_id"] == item.doc_id and s["filter"] == answer_filter)
            assert value == pytest.approx(np.mean(sample[metric]))


SHORT = 256  # tokens of context
PAIRS = [
    ("Natalia sold clips to 48 of her friends", " in April"),
    ("Natalia sold clips to 48 of her friends ", "in April"),  # the blank moves over
    ("The answer is", " A"),
    ("", "An empty context"),
    ("", "<|endoftext|>begins with the prefix token itself"),
    ("A family: 👩", "\u200d👩\u200d👧 and 🇫🇮 flags"),  # characters of several tokens, cut between them
    ("你好", "世界，café"),
    ("word " * 400, "too long for the context"),
    ("short", " and a long continuation" * 40),
    ("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", "Hi<|im_end|>"),
]


@pytest.fixture(scope="module")
def short(real: Any) -> Iterator[tuple[LlamaBackend, Any]]:
    """The same model in both programs, with a context of SHORT tokens."""
    from lm_eval.models.huggingface import HFLM

    options = LlamaOptions(n_ctx=SHORT, n_threads=2, slots=3, type_k="f32", type_v="f32", flash_attn="off")
    backend = LlamaBackend(real.gguf, options)
    yield (
        backend,
        HFLM(pretrained=real.hf, tokenizer=real.tokenizer, batch_size=1, device="cpu", max_length=SHORT),
    )
    backend.close()


def test_log_likelihoods_of_all_kinds_of_text_equal_those_of_hflm(short: tuple[LlamaBackend, Any]) -> None:
    backend, hf = short
    lm_requests = requests("loglikelihood", [*PAIRS, *((context, text[:1]) for context, text in PAIRS)])
    ours, theirs = make_lm(backend).loglikelihood(lm_requests), hf.loglikelihood(lm_requests, disable_tqdm=True)
    np.testing.assert_allclose([score for score, _ in ours], [score for score, _ in theirs], atol=1e-3, rtol=0)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    rolling = requests("loglikelihood_rolling", [("你好 café 🙂 " * 60 + "The end.",), ("One window.",)])
    np.testing.assert_allclose(
        make_lm(backend).loglikelihood_rolling(rolling),
        hf.loglikelihood_rolling(rolling, disable_tqdm=True),
        rtol=1e-6,  # of sums over hundreds of tokens
    )


def test_stop_strings_end_generations_as_in_hflm(short: tuple[LlamaBackend, Any]) -> None:
    backend, hf = short
    prompts = ["The", PAIRS[0][0], "你好 🙂", "word " * 400, "def f(x):\n    return"]
    free = make_lm(backend).generate_until(
        requests("generate_until", [(prompt, {"until": [], "max_gen_toks": 24}) for prompt in prompts])
    )
    # stop strings that the model generates, across several tokens or within one token, and one that it does not
    # generate
    stops = [[text[5:9], "never said"] if i % 2 else [text[7:8]] for i, text in enumerate(free)]
    lm_requests = requests(
        "generate_until",
        [(p, {"until": stop, "max_gen_toks": 24}) for p, stop in zip(prompts, stops, strict=True)],
    )
    ours = make_lm(backend).generate_until(lm_requests)
    assert ours == hf.generate_until(lm_requests, disable_tqdm=True)
    assert ours == [text.split(stop[0])[0] for text, stop in zip(free, stops, strict=True)] != free


def test_instructions_are_left_out_if_their_checker_lacks_data(backend: LlamaBackend) -> None:
    pytest.importorskip("langdetect")
    pytest.importorskip("immutabledict")
    from sweep.measure import lm_eval_tasks

    if lm_eval_tasks._has("tokenizers/punkt_tab"):
        pytest.skip("this machine has nltk's punkt")
    run = run_task(backend, "ifeval", place("ifeval"), TaskOptions(limit=2, max_gen_toks=2))
    with quiet(offline=True):
        loaded = load_task("ifeval", place("ifeval"), TaskOptions())
        documents = loaded.tasks["ifeval"].eval_docs
    assert run.left_out == 541 - len(documents)
    wanting = {"length_constraints:number_sentences", "change_case:capital_word_frequency"}
    instructions = [row["instruction_id_list"] for row in read_jsonl(SHARED / "data" / "ifeval" / "ifeval.jsonl")]
    assert sum(name in wanting for names in instructions for name in names) == 77
    assert documents["instruction_id_list"] == [names for names in instructions if not wanting & set(names)]


def test_the_group_mmlu_has_all_57_subjects(backend: LlamaBackend) -> None:
    with quiet(offline=True):
        loaded = load_task("mmlu", place("mmlu"), TaskOptions(num_fewshot=5))
    assert len(loaded.tasks) == 57
    for name, task in loaded.tasks.items():
        assert len(task.eval_docs) == 10
        assert {f"mmlu_{row['subject']}" for row in task.eval_docs} == {name}
        assert len(task.fewshot_docs()) == 5


def test_canonical_solutions_pass_and_wrong_ones_do_not() -> None:
    rows = read_jsonl(SHARED / "data" / "humaneval" / "HumanEval.jsonl.gz")[::20]
    tests = [f"{row['test']}\ncheck({row['entry_point']})" for row in rows]
    right = [row["prompt"] + row["canonical_solution"] for row in rows]
    wrong = [row["prompt"] + "    return None\n" for row in rows]
    scores, verdicts = CodeEval().compute(
        references=tests, predictions=[[a, b] for a, b in zip(right, wrong, strict=True)], k=[1, 2]
    )
    assert list(verdicts.values()) == [[True, False]] * len(rows)
    assert scores == {"pass@1": pytest.approx(0.5), "pass@2": pytest.approx(1.0)}
