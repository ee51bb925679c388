"""Scores from elsewhere: read by name whatever their shape, whole or named as left out, and never filled in."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_demix.config import ImportedConfig
from nemo_demix.errors import ConfigError, DemixError, MixtureError, ScoreError
from nemo_demix.scoring.imported import ImportedScores, Value, read_imported
from nemo_demix.scoring.imported.metrics import known_metric

RECIPE = ["general", "math", "code"]
MIXTURES = {
    "a": {"web": 1.0},
    "b": {"web": 0.25, "books": 0.75},
    "c": {"books": 1.0},
}


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def mixtures(folder: Path) -> str:
    return write(folder, "mixtures.json", json.dumps(MIXTURES))


def scores_of(found: ImportedScores) -> dict[str, dict[str, float]]:
    return {row.name: {name: value.score for name, value in row.scores.items()} for row in found.rows}


def test_one_csv_holds_mixtures_and_scores(tmp_path: Path) -> None:
    path = write(tmp_path, "s.csv", "arc_acc,math,name,general,val_loss\n0.5,0.25,x,0.75,3.5\n0.25,1,y,0,2\n")
    found = read_imported(ImportedConfig(scores=path), RECIPE)
    assert found.datasets == ("math", "general")
    assert [row.weights for row in found.rows] == [{"math": 0.25, "general": 0.75}, {"math": 1.0, "general": 0.0}]
    assert scores_of(found) == {"x": {"arc_acc": 0.5, "val_loss": 3.5}, "y": {"arc_acc": 0.25, "val_loss": 2.0}}
    assert found.higher_is_better == {"arc_acc": True, "val_loss": False}
    assert not found.excluded
    assert not found.notes


def test_regmix_shape_joins_two_csvs_by_index_whatever_their_order(tmp_path: Path) -> None:
    """Shares of three decimals miss 1 by their rounding; the files are not in the same order."""
    shares = "index,train_the_pile_arxiv,train_the_pile_github\n1,0.333,0.668\n2,0.5,0.5\n3,1,0\n"
    losses = "index,metric/the_pile_arxiv_val_loss\n3,4.5\n1,7.25\n2,5\n"
    asked = ImportedConfig(scores=write(tmp_path, "loss.csv", losses), mixtures=write(tmp_path, "mix.csv", shares))
    found = read_imported(asked, RECIPE)
    assert scores_of(found) == {
        name: {"metric/the_pile_arxiv_val_loss": loss} for name, loss in (("3", 4.5), ("1", 7.25), ("2", 5.0))
    }
    assert found.higher_is_better == {"metric/the_pile_arxiv_val_loss": False}
    weights = {row.name: row.weights for row in found.rows}
    assert weights["3"] == {"train_the_pile_arxiv": 1.0, "train_the_pile_github": 0.0}
    assert weights["1"]["train_the_pile_arxiv"] == pytest.approx(0.333 / 1.001, abs=1e-15)
    assert sum(weights["1"].values()) == pytest.approx(1, abs=1e-15)
    assert "the shares of 1 of 3 mixtures do not sum to 1" in found.notes[0]


def test_opencompass_is_read_by_benchmark_name(tmp_path: Path) -> None:
    """Two orders of the rows are one table; lines between blocks are none; two metrics keep apart."""
    head = "dataset,version,metric,mode,a,b,c\n"
    rows = [
        "--------- Exams ---------,-,-,-,-,-,-\n",
        "arc_easy,1a2b,accuracy,ppl,40.5,41,42\n",
        "triviaqa,2c3d,score,gen,10,11,12\n",
        "wikitext,3d4e,ppl,ppl,9,8,7\n",
        "wikitext,3d4e,accuracy,ppl,1,2,3\n",
        "never_run,4e5f,accuracy,gen,-,-,-\n",
    ]
    read = [
        read_imported(ImportedConfig(write(tmp_path, name, head + "".join(lines)), mixtures(tmp_path)), RECIPE)
        for name, lines in (("one.csv", rows), ("two.csv", rows[::-1]))
    ]
    expected = {"arc_easy": 40.5, "triviaqa": 10.0, "wikitext@ppl": 9.0, "wikitext@accuracy": 1.0}
    for found in read:
        assert scores_of(found)["a"] == expected
        assert found.higher_is_better == {
            "arc_easy": True,
            "triviaqa": True,
            "wikitext@ppl": False,
            "wikitext@accuracy": True,
        }
        assert "no mixture has a score of 'never_run': left out" in found.notes[0]


def harness(**tasks: dict[str, Any]) -> dict[str, Any]:
    return {"results": tasks, "higher_is_better": {"odd": {"distance": False}}, "configs": {}}


def test_harness_results_one_file_or_folder_a_mixture(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    for number, name in enumerate(("a.json", "b/results_2024.json", "c/deep/results.json")):
        value = harness(
            arc={"alias": "arc", "acc,none": 0.1, "acc_stderr,none": 0.01, "acc_norm,none": 0.2 + number / 10},
            gsm8k={"exact_match,strict": 0.3, "exact_match,flexible": 0.4, "exact_match_stderr,strict": "N/A"},
            odd={"distance,none": 5},
        )
        write(folder, name, json.dumps(value))
    found = read_imported(ImportedConfig(str(folder), mixtures(tmp_path)), RECIPE)
    assert scores_of(found)["a"] == {"arc": 0.2, "gsm8k": 0.3, "odd": 5.0}
    assert scores_of(found)["c"]["arc"] == pytest.approx(0.4)
    assert found.higher_is_better == {"arc": True, "gsm8k": True, "odd": False}


def test_tasks_of_a_group_with_a_score_do_not_count_twice(tmp_path: Path) -> None:
    value = harness(
        mmlu={"acc,none": 0.5}, mmlu_law={"acc,none": 0.4}, tools={"alias": "tools"}, tools_a={"acc,none": 0.7}
    )
    value["group_subtasks"] = {"mmlu": ["mmlu_law"], "tools": ["tools_a"]}
    path = write(tmp_path, "a.json", json.dumps(value))
    found = read_imported(ImportedConfig(path, mixtures(tmp_path)), RECIPE)
    assert scores_of(found) == {"a": {"mmlu": 0.5, "tools_a": 0.7}}
    assert found.excluded == {"b": "not scored", "c": "not scored"}


def test_a_task_split_over_files_is_joined_and_a_double_one_refused(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    write(folder, "a/one.json", json.dumps(harness(arc={"acc,none": 0.5})))
    write(folder, "a/two.json", json.dumps(harness(piqa={"acc,none": 0.25})))
    asked = ImportedConfig(str(folder), mixtures(tmp_path))
    assert scores_of(read_imported(asked, RECIPE)) == {"a": {"arc": 0.5, "piqa": 0.25}}
    write(folder, "a/three.json", json.dumps(harness(arc={"acc,none": 0.75})))
    with pytest.raises(ScoreError, match=r"three\.json: found another score of arc for a; keep one"):
        read_imported(asked, RECIPE)


def test_what_is_not_whole_is_left_out_by_name_and_counted(tmp_path: Path) -> None:
    text = "name,acc,loss\na,0.5,3\nb,nan,3\nc,,inf\nstray,0.5,3\n"
    more = {**MIXTURES, "d": {"web": 0.5, "books": 0.5}}
    path = write(tmp_path, "m.json", json.dumps(more))
    found = read_imported(ImportedConfig(write(tmp_path, "s.csv", text), path), RECIPE)
    assert list(scores_of(found)) == ["a"]
    assert found.excluded == {
        "b": "no score of acc",
        "c": "no score of acc, loss",
        "stray": f"scored, but not in {path}",
        "d": "not scored",
    }
    assert found.notes[-1].startswith("4 mixtures do not count: 1 no score of acc (b); 1 no score of acc, loss (c)")


def test_repeated_measurements_of_a_mixture_are_averaged(tmp_path: Path) -> None:
    text = "name,general,math,acc\nx,0.5,0.5,0.25\ny,1,0,0.5\nz,0.5,0.5,0.75\n"
    found = read_imported(ImportedConfig(write(tmp_path, "s.csv", text)), RECIPE)
    assert scores_of(found) == {"x": {"acc": 0.5}, "y": {"acc": 0.5}}
    assert "1 mixtures were scored more than once: averaged" in found.notes[0]
    assert "acc is 0.5 for every mixture" in found.notes[1]


def test_an_unnamed_row_is_never_joined_by_its_place(tmp_path: Path) -> None:
    scores = write(tmp_path, "s.csv", "acc\n0.5\n0.25\n")
    shares = write(tmp_path, "m.csv", "web,books\n0.5,0.5\n1,0\n")
    with pytest.raises(ScoreError, match=r"m\.csv: expected a column `name` or `index`"):
        read_imported(ImportedConfig(scores, shares), RECIPE)
    named = write(tmp_path, "named.csv", "name,web,books\n1,0.5,0.5\n2,1,0\n")
    with pytest.raises(ScoreError, match=r"no mixture can be used: 2 scored, but not in .*named\.csv"):
        read_imported(ImportedConfig(scores, named), RECIPE)
    alone = write(tmp_path, "alone.csv", "general,math,acc\n0.5,0.5,0.25\n1,0,0.5\n")
    assert list(scores_of(read_imported(ImportedConfig(alone), RECIPE))) == ["alone_1", "alone_2"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "name,general,math,acc\nx,0.5,0.4,1\n",
            MixtureError,
            r"s\.csv: x: expected shares that sum to 1 within 0\.01",
        ),
        ("name,general,math,acc\nx,1.5,-0.5,1\n", MixtureError, r"x: math: expected a finite share >= 0, found -0\.5"),
        ("name,general,math,acc\nx,1,nan,1\n", MixtureError, r"x: math: expected a finite share >= 0, found none"),
        ("name,general,math,acc\nx,1,0,good\n", ScoreError, r"x: acc: expected a number, found 'good'; correct it"),
        ("name,general,math,acc\nx,1,0,1\nx,0,1,1\n", ScoreError, r"column 'name': 'x' occurs twice"),
        ("name,general,math,acc\nx,1,0\n", ScoreError, r"s\.csv:2: expected 4 values, found 3"),
        ("name,general,acc,acc\nx,1,0,1\n", ScoreError, r"column 'acc' occurs twice"),
        ("name,general,math,arc\nx,1,0,1\n", ConfigError, r"higher is better for 'arc': their names end in no"),
        ("name,general,math\nx,1,0\n", ScoreError, r"expected a column of scores beside the mixtures"),
        ("name,web,books,acc\nx,1,0,1\n", ScoreError, r"no column is a dataset of the recipe \(general, math, code\)"),
        ("name,general,math,acc\n", ScoreError, r"at least one row, found 1 lines"),
    ],
)
def test_bad_files_are_refused_with_what_to_do(
    tmp_path: Path, text: str, error: type[DemixError], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_imported(ImportedConfig(write(tmp_path, "s.csv", text)), RECIPE)


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    scores = write(tmp_path, "s.csv", "name,acc\na,0.5\nb,0.25\nc,1\n")
    known = mixtures(tmp_path)
    with pytest.raises(ConfigError, match=r"capabilities: .*s\.csv has no score 'arc'; expected some of 'acc'"):
        read_imported(ImportedConfig(scores, known, capabilities={"arc": "general"}), RECIPE)
    with pytest.raises(ScoreError, match=r"search\.imported\.index=id: no such column"):
        read_imported(ImportedConfig(scores, known, index="id"), RECIPE)
    with pytest.raises(ScoreError, match=r"nowhere: no such file or folder"):
        read_imported(ImportedConfig(str(tmp_path / "nowhere"), known), RECIPE)
    mixed = write(tmp_path, "mixed.json", json.dumps({"a": {"general": 0.5, "coed": 0.5}}))
    with pytest.raises(MixtureError, match=r"unknown name 'coed'.*did you mean code\?"):
        read_imported(ImportedConfig(scores, mixed), RECIPE)
    lower = read_imported(ImportedConfig(scores, known, higher_is_better={"acc": False}), RECIPE)
    assert lower.higher_is_better == {"acc": False}


def test_results_that_are_none_are_refused(tmp_path: Path) -> None:
    known = mixtures(tmp_path)
    for text, message in (
        ("{}", "expected results of lm-evaluation-harness"),
        ("nonsense", "expected JSON"),
        (json.dumps(harness(odd={"speed,none": 1, "size,none": 2})), "found the metrics 'speed', 'size'"),
        (json.dumps(harness(arc={"alias": "arc"})), "no task has a score"),
        ('{"results": {"arc": 1}}', "expected results of lm-evaluation-harness"),
        ('{"results": {}, "results": {}}', "the key 'results' twice"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps(harness(arc={"acc,none": "high"})), "expected a number, found 'high'"),
    ):
        with pytest.raises(ScoreError, match=message):
            read_imported(ImportedConfig(write(tmp_path, "a.json", text), known), RECIPE)


def test_standard_errors_are_used_as_such(tmp_path: Path) -> None:
    """Each belongs to its score; repeated measurements are averaged by them."""
    header = "name,general,code,acc,acc_stderr,loss,loss_std_err,arc/acc_none,arc/acc_stderr_none,loss_std,lone_stderr"
    rows = [
        "a,0.5,0.5,0.4,0.1,2,0.2,0.3,0.01,7,8",
        "b,0.5,0.5,0.7,0.2,3,,0.5,0.02,7,8",
        "c,1,0,0.5,-1,1,nan,0.7,0.03,7,8",
    ]
    path = write(tmp_path, "scores.csv", "\n".join([header, *rows]))
    found = read_imported(ImportedConfig(scores=path), RECIPE)
    assert found.benchmarks == ["acc", "loss", "arc/acc_none"]
    first, second = found.rows
    assert first.scores["acc"].score == pytest.approx((0.4 / 0.01 + 0.7 / 0.04) / (1 / 0.01 + 1 / 0.04))
    assert first.scores["acc"].stderr == pytest.approx((1 / 0.01 + 1 / 0.04) ** -0.5)
    assert first.scores["loss"] == Value(2.5)  # one of the two has no standard error
    assert second.scores["arc/acc_none"] == Value(0.7, 0.03)
    assert second.scores["acc"] == Value(0.5)
    assert found.stderr("acc") == pytest.approx(0.0894, abs=1e-4)
    assert "taken for spreads, and not for scores: 'acc_stderr', 'loss_std_err'" in found.notes[0]
    assert "arc/acc_none has a standard error" not in " ".join(found.notes)
    assert "acc has a standard error of 0.0894 (median), and its values spread by only" in " ".join(found.notes)


@pytest.mark.parametrize(
    ("name", "higher", "unit"),
    [
        ("arc_easy/acc_norm", True, "share"),
        ("acc,none", True, "share"),
        ("humaneval_pass@10", True, "share"),
        ("metric/the_pile_arxiv_val_loss", False, "loss"),
        ("Code Loss", False, "loss"),
        ("mmlu_stem_bpb", False, "bits/byte"),
        ("wikitext:word_perplexity", False, "perplexity a word"),
    ],
)
def test_a_direction_is_that_of_a_metric_known_by_name(name: str, higher: bool, unit: str) -> None:
    metric = known_metric(name)
    assert metric is not None
    assert (metric.higher_is_better, metric.unit) == (higher, unit)


@pytest.mark.parametrize(
    "name",
    "neg_val_loss 1-acc -loss acc-loss exact_match_error loss_reduction negative/ppl problem minus_acc loss/acc "
    "delta_acc 1_-_acc val_loss__MIN arc".split(),
)
def test_a_direction_is_not_guessed(name: str) -> None:
    assert known_metric(name) is None


def test_a_pattern_may_say_which_way_many_scores_point(tmp_path: Path) -> None:
    path = write(tmp_path, "s.csv", "name,general,math,one_x,two_x,three_x\na,1,0,1,2,3\nb,0,1,3,2,1\n")
    found = read_imported(ImportedConfig(path, higher_is_better={"*_x": False, "two_x": True}), RECIPE)
    assert found.higher_is_better == {"one_x": False, "two_x": True, "three_x": False}
    with pytest.raises(ConfigError, match=r"higher_is_better: .* has no score '\*_y'"):
        read_imported(ImportedConfig(path, higher_is_better={"*_y": False}), RECIPE)


SHAPES = {
    "tabs": ("name\tgeneral\tmath\tacc\n0\t1\t0\t0.5\n1\t0\t1\t.25\n", 2),
    "semicolons": ("name;general;math;acc\r\n0;1;0;0.5\r\n1;0;1;2.5e-1\r\n", 2),
    "trailing commas": ("name,general,math,acc,,\n0,1,0,0.5,,\n1,0,1,0.25,,\n,,,,,\n", 2),
    "byte order mark": ("\ufeffname,general,math,acc\n0,1,0,0.5\n1,0,1,0.25\n", 2),
    "pandas' index": (",general,math,acc\n0.0,1,0,0.5\n1.0,0,1,0.25\n", 2),
    "absent": ("name,general,math,acc\n0,1,0,0.5\n1,0,1,N/A\n2,0,1,None\n3,0,1,-\n4,0,1,NaN\n", 1),
    "olmix": ("run,name,index,train_a,train_b,acc\nh0,0,7,1,0,0.5\nh1,1,8,0,1,0.25\n", 2),
    "a tag": ("index,tag,train_a,train_b,acc\n0,train,1,0,0.5\n1,train,0,1,0.25\n", 2),
    "a score named as a dataset is": ("name,train_a,train_b,general,acc\n0,1,0,7,0.5\n1,0,1,8,0.25\n", 2),
    "a score named as a mixture column is": ("name,general,math,train_loss,acc\n0,1,0,7,0.5\n1,0,1,8,0.25\n", 2),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_tables_as_programs_write_them(tmp_path: Path, shape: str) -> None:
    text, count = SHAPES[shape]
    path = write(tmp_path, "s.csv", text)
    found = read_imported(
        ImportedConfig(path, higher_is_better={"general": True} if "dataset" in shape else {}), RECIPE
    )
    assert [row.name for row in found.rows] == ["0", "1"][:count]
    assert [row.scores["acc"].score for row in found.rows] == [0.5, 0.25][:count]
    assert all(list(row.weights.values()) == ([1, 0] if row.name == "0" else [0, 1]) for row in found.rows)


def test_whole_numbers_join_however_they_are_written_by_a_column_that_both_have(tmp_path: Path) -> None:
    shares = write(tmp_path, "mix.csv", "run,name,index,web,books\nh0,x,0,1,0\nh1,y,1,0,1\n")
    scores = write(tmp_path, "scores.csv", "index,acc\n1.0,0.5\n0.0,0.25\n")
    found = read_imported(ImportedConfig(scores, shares), RECIPE)
    assert scores_of(found) == {"1": {"acc": 0.5}, "0": {"acc": 0.25}}
    assert found.rows[0].weights == {"web": 0.0, "books": 1.0}


def test_demixs_own_folders_of_summaries(tmp_path: Path) -> None:
    """The model is called alike in each; the folder says which mixture it is."""
    for name, score in (("a", 40), ("b", 50), ("c", 60)):
        place = f"scores/{name}/merged/compass_outputs/20251101/summary/summary_20251101.csv"
        write(tmp_path, place, f"dataset,version,metric,mode,hf_merged\nARC-e,1e,accuracy,ppl,{score}\n-,-,-,-,-\n")
    found = read_imported(ImportedConfig(str(tmp_path / "scores"), mixtures(tmp_path)), RECIPE)
    assert scores_of(found) == {"a": {"ARC-e": 40.0}, "b": {"ARC-e": 50.0}, "c": {"ARC-e": 60.0}}
    assert found.metrics["ARC-e"].unit == "%"


def test_harness_results_before_release_four_and_under_the_names_of_paths(tmp_path: Path) -> None:
    for name in MIXTURES:
        arc = {"acc": 0.5, "acc_stderr": 0.01, "acc_norm": 0.25, "acc_norm_stderr": 0.02}
        value = {"results": {"arc": arc, "lambada": {"ppl": 20.0, "ppl_stderr": 0.1}}, "versions": {"arc": 0}}
        write(tmp_path, f"scores/__ckpt__{name}/results.json", json.dumps(value))
    found = read_imported(ImportedConfig(str(tmp_path / "scores"), mixtures(tmp_path)), RECIPE)
    assert [row.name for row in found.rows] == ["a", "b", "c"]
    assert found.rows[0].scores == {"arc": Value(0.25, 0.02), "lambada": Value(20.0, 0.1)}
    assert found.higher_is_better == {"arc": True, "lambada": False}


@pytest.mark.parametrize("cell", ["1_000", "\uff11\uff12", "1e308", "1e999", "0,5", "0x10", "1 000", "50%", "٣"])
def test_only_a_number_is_one(tmp_path: Path, cell: str) -> None:
    path = write(tmp_path, "s.csv", f'name;general;math;acc\nx;1;0;"{cell}"\n')
    with pytest.raises(ScoreError, match=r"s\.csv: x: acc: expected a number"):
        read_imported(ImportedConfig(path), RECIPE)


def test_names_that_steer_a_terminal_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "s.csv", "name,general,math,\x1b[2Jacc\nx,1,0,1\n")
    with pytest.raises(ScoreError, match="expected a name of at most 500 printable characters"):
        read_imported(ImportedConfig(path), RECIPE)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ScoreError, match="expected a file, found something else"):
        read_imported(ImportedConfig(str(tmp_path / "pipe.csv")), RECIPE)


def test_tens_of_thousands_of_columns_take_seconds(tmp_path: Path) -> None:
    columns = [f"d{number}_loss" for number in range(20_000)]
    lines = [",".join(["name,general,math", *columns]), *(f"{n},1,0" + ",2.5" * 20_000 for n in range(2))]
    path = write(tmp_path, "s.csv", "\n".join(lines))
    started = time.process_time()
    found = read_imported(ImportedConfig(path), RECIPE)
    assert len(found.benchmarks) == 20_000
    assert time.process_time() - started < 5  # quadratic, it takes minutes


CELLS = st.text(alphabet='0123456789.,;\t\n"-eEnanNA_mg\x00\u0661', max_size=60)


def outcome(asked: ImportedConfig) -> ImportedScores | None:
    """What was read; None where it was refused."""
    try:
        return read_imported(asked, RECIPE)
    except DemixError:
        return None


@settings(max_examples=100, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["", "name,general,math,acc\n", "dataset,version,metric,mode,a\n", '{"results": ']), CELLS)
@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_any_text_gives_whole_mixtures_or_one_error(tmp_path: Path, suffix: str, head: str, text: str) -> None:
    path, known = write(tmp_path, f"s{suffix}", head + text), mixtures(tmp_path)
    for asked in (ImportedConfig(path), ImportedConfig(path, known), ImportedConfig(known, path)):
        found = outcome(asked)
        if found is not None:
            assert found.rows
            assert all(sum(row.weights.values()) == pytest.approx(1) for row in found.rows)
            assert all(set(row.scores) == set(found.benchmarks) for row in found.rows)
