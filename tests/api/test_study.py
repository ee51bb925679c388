"""The search from Python: the command's own loop and strategies, whoever scores the mixtures."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nemo_demix
from nemo_demix.config import SearchConfig
from nemo_demix.errors import ConfigError, DemixError, MixtureError, ScoreError
from nemo_demix.search.imported import read_problem, search_imported
from tests.helpers import REPOSITORY
from tests.search.bowls import BEST, BLEND, FAST, NAMES, space_of
from tests.search.bowls import search as searched
from tests.search.bowls import values as bowl
from tests.search.test_imported_search import settings as imported
from tests.search.test_imported_search import write_csv

BLENDS = {name: dict(zip(NAMES, row_D, strict=True)) for name, row_D in zip(NAMES, BLEND.rows_CD.tolist(), strict=True)}
SCORES = {f"benchmark/{name}": name for name in NAMES}
NO_NUMBER = {"benchmark/math": float("nan")}
SETTINGS = SearchConfig(iterations=[12, 6], pool_size=500, select_top=8, num_refits=0, predictor=FAST)


def study_of(folder: Path | None = None, **changes: Any) -> nemo_demix.Study:
    tokens = {"general": 600, "math": 200, "code": 200}
    arguments = {"strategy": "demix", "settings": SETTINGS, "blends": BLENDS, "folder": folder, **changes}
    return nemo_demix.Study(tokens, SCORES, **arguments)


def run(study: nemo_demix.Study, most: int = 1000) -> int:
    """Score at most so many of a study's trials, the last of a step first; how many were."""
    count = 0
    while trials := study.ask():
        for trial in reversed(trials):
            if count == most:
                return count
            study.tell(trial, bowl(trial.weights))
            count += 1
    return count


def test_it_is_the_search_of_the_command(tmp_path: Path) -> None:
    """Fed the same scores, the loop that the command runs ends in the same weights and predictions."""
    prior = BLEND.merge_weights_for({"general": 0.6, "math": 0.2, "code": 0.2})[0]
    expected = searched(SETTINGS, tmp_path / "scores.jsonl", space=replace(space_of(), prior=prior))
    study = study_of()
    assert run(study) == study.num_trials == 18
    result = study.result()
    assert result.weights == expected.choice.merge_weights
    assert {name: one.score for name, one in result.predicted.items()} == {
        name: one["score"] for name, one in expected.choice.predicted.items()
    }
    assert result.data_shares == BLEND.data_shares(result.weights)
    assert max(abs(result.weights[name] - BEST[name]) for name in NAMES) < 0.2
    assert [row["dataset"] for row in result.table()] == NAMES


def test_cut_off_it_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(study_of(whole)) == 18
    study_of(whole).result()  # all of it is there
    assert run(study_of(cut), most=7) == 7
    again = study_of(cut)
    assert len(again.ask()) == 5
    assert run(again) == 11
    result = again.result()
    assert (cut / "search/mixture.json").read_bytes() == (whole / "search/mixture.json").read_bytes()
    loaded = nemo_demix.Run.load(cut)
    assert loaded.result == result
    assert len(loaded.table("proxies")) == 18
    assert len(study_of(cut, evaluator="v2").ask()) == 12, "another evaluator's scores do not count"


def test_a_trial_that_failed_is_left_out_and_too_many_end_the_search() -> None:
    study = study_of()
    first, *others = study.ask()
    study.tell(first, failed="the loss diverged")
    for trial in others:
        study.tell(trial.name, {name: (score, 0.01) for name, score in bowl(trial.weights).items()})
    run(study)
    assert (study.result().num_scored, study.result().num_failed) == (17, 1)
    study = study_of()
    for trial in study.ask():
        study.tell(trial, failed="no GPU")
    with pytest.raises(ScoreError, match=r"12 of 12 proxies failed, more than .*: no GPU"):
        study.ask()


def test_mistakes_are_named() -> None:
    study = study_of()
    (first, second, *_) = study.ask()
    scores = bowl(first.weights)
    bad: list[tuple[type[DemixError], str, Any]] = [
        (ConfigError, "mix_99 is no trial that waits", lambda: study.tell("mix_99", scores)),
        (ConfigError, "found both or neither", lambda: study.tell(first)),
        (ScoreError, r"expected the scores .* found \['a'\]", lambda: study.tell(first, {"a": 1.0})),
        (ScoreError, "benchmark/math: expected a finite score", lambda: study.tell(first, scores | NO_NUMBER)),
        (ConfigError, "12 trials of step 0 wait", study.result),
        (ConfigError, "search.strategy=demux: expected one of", lambda: study_of(strategy="demux")),
        (ConfigError, r"search\.iteration", lambda: study_of(settings={"iteration": [3]})),
        (ConfigError, "needs the components' own predictions", lambda: study_of(strategy="mixmin", settings={})),
        (MixtureError, "blend of component math", lambda: study_of(blends={**BLENDS, "math": {"math": 0.3}})),
        (ConfigError, "epochs need the datasets' tokens", lambda: nemo_demix.Study(NAMES, SCORES, num_tokens=5)),
        (ConfigError, "no such folder", lambda: nemo_demix.Run.load("nowhere")),
        (ScoreError, "no column is a dataset", lambda: nemo_demix.Study.from_scores([{"a": 1, "b_loss": 2.0}])),
    ]  # fmt: skip
    for kind, message, act in bad:
        with pytest.raises(kind, match=message):
            act()
    study.tell(second, bowl(second.weights))
    with pytest.raises(ConfigError, match=f"{second.name} is no trial that waits"):
        study.tell(second, bowl(second.weights))


def test_scores_that_are_there_give_the_commands_mixture(tmp_path: Path) -> None:
    """A file, and the same rows as a program has them, whole numbers, absent and NaN cells among them."""
    csv = write_csv(tmp_path / "scores.csv", ["train_web", "train_books", "train_papers"])
    config = imported(tmp_path, csv, ["unlike"])
    config.search.strategy = "demix"
    expected = json.loads(search_imported(config, read_problem(config)).read_text())
    settings = {"pool_size": 3000, "select_top": 16, "num_refits": 2}
    settings["predictor"] = {"kind": "ridge", "num_bootstrap": 2, "folds": 3, "repeats": 1}
    header, *lines = [line.split(",") for line in csv.read_text().splitlines()]
    rows: list[dict[str, Any]] = [
        {name: cell if name == "name" else float(cell) for name, cell in zip(header, line, strict=True)}
        for line in lines
    ]
    rows.append({"name": "broken", "train_web": 1, "train_books": 0, "train_papers": 0, "one_loss": float("nan")})

    class Frame:
        def to_dict(self, orient: str) -> list[dict[str, Any]]:
            assert orient == "records"
            return rows

    for given in (csv, rows, Frame()):
        study = nemo_demix.Study.from_scores(given, strategy="demix", settings=settings)
        assert study.ask() == []
        result = study.result()
        assert (study.num_trials, result.num_scored) == (48, 48)
        assert result.data_shares == expected["data_shares"]
        assert given is csv or any("broken" in note for note in study.notes)


def test_importing_it_brings_nothing_and_a_study_no_torch() -> None:
    program = """
import sys
before = set(sys.modules)
import nemo_demix
assert {name for name in set(sys.modules) - before if "." in name} == {"nemo_demix.uncompiled"}, sys.modules
assert set(nemo_demix.__all__) <= set(dir(nemo_demix))
study = nemo_demix.Study(["a", "b"], {"loss": "all"}, strategy="demix")
study.ask()
print([name for name in ("torch", "nemo", "megatron", "pandas", "sklearn", "lightgbm") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    for name in nemo_demix.__all__:
        assert getattr(nemo_demix, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'nosuch'"):
        _ = nemo_demix.nosuch
