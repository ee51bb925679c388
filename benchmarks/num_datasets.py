"""Do proxies order mixtures as well when there are more datasets? 3, 7 and 15 of the same text (DeMix's Table 7).

The fidelity study's text is cut into one, three or seven datasets of math and as many of code; general text is one
dataset each time, as every component holds some of it. Cuts follow the corpora's own order, so that parts differ as
corpora and their modules do. Components have the same tokens in all, so there are fewer for each where there are
more; base, components and 24 references are trained anew with each number, as the recipe `fidelity` has it, with one
seed. Seven datasets are `fidelity_fresh_7.json`'s, whose first set of components is taken. Resumable; about 90 minutes
a number on one core. --quick works out the figures again from the committed scores.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _fresh import SEED, of_study
from _provenance import RESULTS, finish
from _study import RECIPE
from fidelity import CONFIDENCE, SETS, collect, deciding_of, meta_row, study_of

from nemo_demix.artifacts import write_json, write_text
from nemo_demix.datasets.registry import corpus
from nemo_demix.fidelity.consistency import summarise

PARTS = {3: 1, 15: 7}  # of each capability but general, by the number of datasets
CORPORA = {  # of conf/datasets/study.yaml
    "math": ("symbolic_docs", "numerical_docs", "symbolic_tests"),
    "code": ("codeio_high", "codeio_low", "python_stdlib"),
}
CORPUS_BYTES = 2_200_000  # as there
REFERENCE_TOKENS = 524_288  # as there; a component's, where there are seven
TOKENS = 7 * REFERENCE_TOKENS  # of the components in all
STEP_TOKENS = 2048
KINDS = ("merge", "predictions")


def write_datasets(folder: Path, number: int) -> str:
    """Write the text of so many datasets and the configuration of them; the name of the latter."""
    name = f"parts_{number}"
    target = folder / "datasets" / f"{name}.yaml"
    if not target.exists():
        datasets: dict[str, Any] = {
            "general": {
                "capability": "general",
                "sources": [{"registry": "reading_passages"}, {"registry": "science_abstracts"}],
            }
        }
        for capability, corpora in CORPORA.items():
            for place, documents in enumerate(cut(texts(corpora), PARTS[number]), 1):
                path = folder / "text" / f"{name}_{capability}_{place}.jsonl"
                write_text(path, "".join(json.dumps({"text": text}) + "\n" for text in documents))
                datasets[f"{capability}_{place}"] = {"capability": capability, "sources": [{"path": str(path)}]}
        write_json(target, datasets)  # which is YAML too
    return name


def texts(corpora: Sequence[str]) -> list[str]:
    """The documents of some corpora, at most `CORPUS_BYTES` of each: drawn at random, in the corpus's own order."""
    found = []
    for name in corpora:
        documents = list(corpus(name).read())
        order = np.random.default_rng(SEED).permutation(len(documents))
        sizes = np.array([len(documents[place].encode()) for place in order])
        found += [documents[place] for place in np.sort(order[np.cumsum(sizes) - sizes < CORPUS_BYTES])]
    return found


def cut(documents: Sequence[str], number: int) -> list[list[str]]:
    """So many parts of about equal size, each of documents that follow each other."""
    ends = np.cumsum([len(text.encode()) for text in documents])
    parts: list[list[str]] = [[] for _ in range(number)]
    for text, end in zip(documents, ends, strict=True):
        parts[min(number - 1, int(number * (end - 1) / ends[-1]))].append(text)
    return parts


def measured(runs: Path, number: int) -> list[dict[str, Any]]:
    """The rows of one number of datasets; trains what is not there yet."""
    folder = runs / str(number)
    name = write_datasets(folder / "conf", number)
    tokens = STEP_TOKENS * math.ceil(TOKENS / number / STEP_TOKENS)
    settings = (
        *("--config-dir", str(folder / "conf"), f"datasets={name}", f"seed={SEED}"),
        *(f"components.num_tokens={tokens}", f"reference.num_tokens={REFERENCE_TOKENS}", "verify.trained_shares=[]"),
    )
    rows = [*collect(folder, 1, (), *settings), meta_row(folder)]
    return [{**row, "datasets": number} for row in rows]


def of_seven() -> list[dict[str, Any]]:
    """The rows of seven datasets, of one set of components."""
    wanted = {"components": "seed_0", "tokens": None, "method": None, "run": RECIPE}  # where a row says so
    return [
        {**row, "datasets": 7}
        for row in of_study()
        if all(row.get(key, value) == value for key, value in wanted.items())
    ]


def summary_of(rows: Sequence[dict[str, Any]], number: int) -> dict[str, Any]:
    """The figures of one number of datasets."""
    meta = next(row for row in rows if row["kind"] == "meta")
    found: dict[str, Any] = {}
    for label, (_, tail) in SETS.items():
        study = study_of(rows, label, 0)
        found |= deciding_of(rows, study).summary(CONFIDENCE, f"{tail}_{number}", {})
        for kind in KINDS:
            one = summarise(study.figures(kind=kind, method=None).values["rho"]["macro"], CONFIDENCE, "undefined")
            key = f"rho_macro{tail}_{number}_{kind}"
            found |= {key: one.value, f"{key}_lo": one.low, f"{key}_hi": one.high}
        found[f"ceiling_macro{tail}_{number}"] = study.noise()["ceiling_macro"]
    deltas = [row["delta"] for row in rows if row["kind"] == "component"]
    return {**found, f"delta_max_{number}": max(deltas), f"component_tokens_{number}": meta["component_tokens"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/num_datasets"), help="where the runs are, or will be")
    parser.add_argument("--numbers", type=int, nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--collect-only", action="store_true", help="train and score, and write no result")
    parser.add_argument("--quick", action="store_true", help="the figures again, from the committed scores")
    arguments = parser.parse_args()
    if arguments.quick:
        rows = json.loads((RESULTS / "num_datasets.json").read_text())["rows"]
    else:
        rows = [row for number in arguments.numbers for row in measured(arguments.runs.resolve(), number)]
    if arguments.collect_only:
        return
    summary: dict[str, Any] = {}
    everything = [*rows, *of_seven()]
    for number in sorted({row["datasets"] for row in everything}):
        summary |= summary_of([row for row in everything if row["datasets"] == number], number)
    finish("num_datasets", arguments.quick, [SEED], rows, summary)


if __name__ == "__main__":
    main()
