"""Tasks of every kind on a few documents, and a model that answers from its requests' text."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import SuiteConfig
from nemo_demix.datasets.tasks import write_task
from nemo_demix.scoring.harness import TaskSet

COLOURS = "red green blue white black brown pink grey".split()

CHOICES = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{train: {folder}/train.jsonl, test: {folder}/{name}.jsonl}}}}
output_type: multiple_choice
training_split: train
test_split: test
num_fewshot: 2
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_target: gold
doc_to_choice: choices
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
  - {{metric: mcc, aggregation: matthews_corrcoef, higher_is_better: true}}
metadata: {{version: 2.0}}
"""

GENERATE = """
task: generate
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/numbers.jsonl}}}}
output_type: generate_until
test_split: test
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_target: "{{{{answer}}}}"
repeats: 3
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
filter_list:
  - {{name: first, filter: [{{function: regex, regex_pattern: "([0-9]+)"}}, {{function: take_first}}]}}
  - name: vote
    filter: [{{function: regex, regex_pattern: "([0-9]+)"}}, {{function: majority_vote}}, {{function: take_first}}]
generation_kwargs: {{until: ["Q:"], max_gen_toks: 8, do_sample: true, temperature: 0.5}}
metadata: {{version: 1.0}}
"""

GREEDY = """
task: greedy
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/numbers.jsonl}}}}
output_type: loglikelihood
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: " {{{{answer}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
metadata: {{version: 1.0}}
"""

ROLLING = """
task: rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/numbers.jsonl}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list:
  - {{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}}
  - {{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}
metadata: {{version: 1.0}}
"""

GROUP = """
group: {name}
task: [many, few]
aggregate_metric_list:
  - {{metric: acc, aggregation: mean, weight_by_size: {by_size}}}
metadata: {{version: 1.0}}
"""


def write_definitions(folder: Path) -> Path:
    """The YAML files and their documents."""
    rows = [
        {"question": f"which colour is number {n}", "choices": COLOURS[n % 3 : n % 3 + 2 + n % 4], "gold": n % 2}
        for n in range(40)
    ]
    numbers = [{"question": f"what is {n} and {n * n}", "answer": str(n % 7)} for n in range(12)]
    for name, part in (("train", rows[:8]), ("many", rows[8:33]), ("few", rows[33:]), ("numbers", numbers)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    for name in ("many", "few"):
        (folder / f"{name}.yaml").write_text(CHOICES.format(folder=folder, name=name))
    two_right = CHOICES.replace("doc_to_target: gold", 'doc_to_target: "{{{{[gold, 0]}}}}"').replace(
        "shot: 2", "shot: 0"
    )
    two_right = "".join(line for line in two_right.splitlines(keepends=True) if "mcc" not in line)
    (folder / "two_right.yaml").write_text(
        two_right.replace("{name}.jsonl", "few.jsonl").format(folder=folder, name="two_right")
    )
    for name, text in (("generate", GENERATE), ("greedy", GREEDY), ("rolling", ROLLING)):
        (folder / f"{name}.yaml").write_text(text.format(folder=folder))
    for name, by_size in (("by_size", "true"), ("alike", "false")):
        (folder / f"{name}.yaml").write_text(GROUP.format(name=name, by_size=by_size))
    return folder


def _number(*parts: object) -> float:
    """Between 0 and 1, the same for the same parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big") / 2**48


class ToyLM(LM):
    """A model whose answers are a function of a request's text, of how often it was asked before, and of a seed."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._seed = seed

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return [(-20 * (x := _number(self._seed, *one.args)), x < 0.3) for one in requests]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        return [-90 * _number(self._seed, *one.args) for one in requests]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        seen: dict[str, int] = {}
        answers = []
        for one in requests:
            text = one.args[0]
            seen[text] = seen.get(text, 0) + 1
            answers.append(f" it is {int(7 * _number(self._seed, text, seen[text] // 2))} I say")
        return answers

    def answer(self, instances: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {kind: getattr(self, kind)(requests) for kind, requests in instances.items()}


def prepared(suite: SuiteConfig, folder: Path) -> DataManifest:
    return DataManifest({}, {}, {}, "m", {key: write_task(key, suite, folder) for key in suite.tasks})


def task_set(suite: SuiteConfig, folder: Path) -> TaskSet:
    return TaskSet.load(suite, prepared(suite, folder))
