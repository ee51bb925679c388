"""Scores of programs outside: real commands, and whole stages that need no rank for them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.config import ExternalConfig, ExternalScoreConfig, SuiteConfig
from nemo_demix.errors import ConfigError, ScoreError
from nemo_demix.scoring.external.answers import read_answer
from nemo_demix.scoring.external.command import Command, Commands
from nemo_demix.scoring.external.settings import external_fingerprints, external_scores
from nemo_demix.scoring.identity import JudgedScore
from nemo_demix.scoring.items import Items, Score, pack_items, score_of, unpack_items
from nemo_demix.scoring.scores import combined, compare
from nemo_demix.scoring.suite import Suite
from tests.helpers import REPOSITORY, fork_run, run_cli

TENSOR = "module.decoder.final_layernorm.weight"
# Reads the checkpoint that it is given, as a team's own harness would; without torch, which takes seconds to load.
HARNESS = f"""
import io, json, sys, zipfile
sys.path.insert(0, {str(REPOSITORY)!r})
from pathlib import Path
import numpy as np
from nemo_demix.checkpoints.metadata import read_metadata
checkpoint, output, name = sys.argv[1:4]
weights = Path(checkpoint) / "weights"
entry = read_metadata(weights).tensors[{TENSOR!r}]
(chunk,) = entry.chunks
archive = (weights / chunk.file).read_bytes()[chunk.file_offset : chunk.file_offset + chunk.num_bytes]
assert entry.dtype_name == "float32"
value = np.frombuffer(zipfile.ZipFile(io.BytesIO(archive)).read("archive/data/0"), "<f4").astype(float)
if not Path("MARKER").exists():  # the first one fails
    Path("MARKER").touch()
    sys.exit("the harness is out of order")
answer = {{"mean": {{"score": float(value.mean()), "stderr": 0.01, "num_items": 50}}, "first": float(value[0])}}
Path(output).write_text(json.dumps(answer | {{"not asked for": None}}))
"""
QUICK = ["search.pool_size=500", "search.select_top=8", "search.num_refits=0", "search.predictor.kind=ridge"]
QUICK += ["search.predictor.num_bootstrap=2", "search.predictor.folds=2", "parallel.tensor=1", "search.proxy=merge"]


def config(**more: Any) -> ExternalConfig:
    scores = {name: ExternalScoreConfig("math", "accuracy", True) for name in ("one", "two")}
    return ExternalConfig(**{"command": ["true", "{checkpoint}"], "scores": scores, **more})


def command(tmp_path: Path, script: str, with_output: bool = False, **more: Any) -> Command:
    given = {"timeout_s": 60.0, "retries": 0, **more}
    output = tmp_path / "answer.json" if with_output else None
    return Command("external/x: m", [sys.executable, "-c", script], {}, output, tmp_path / "logs/m.log", **given)


def test_an_answer_is_a_number_or_all_that_is_known_of_it() -> None:
    found = read_answer("x", config(), {"one": {"items": [0, 1, 1, 1], "score": 0.75}, "two": 3, "more": "ignored"})
    assert score_of(found["external/x/one"]) == Score(0.75, pytest.approx(0.25), 4, "accuracy", True)
    assert score_of(found["external/x/two"]) == Score(3.0, None, None, "accuracy", True)
    known = read_answer("x", config(), {"one": {"score": 0.5, "stderr": 0.1, "num_items": 25}, "two": 1})
    facts, packed = pack_items(known)
    again = unpack_items(json.loads(json.dumps(facts)), packed)
    assert {name: score_of(one) for name, one in again.items()} == {
        "external/x/one": Score(0.5, 0.1, 25, "accuracy", True),
        "external/x/two": Score(1.0, None, None, "accuracy", True),
    }


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"one": 1}, r"external/x/two: not in the command's answer, which has 'one'; correct the name"),
        ({"one": 1, "two": float("nan")}, r"external/x/two: score=nan: expected a finite number"),
        ({"one": True, "two": 1}, r"external/x/one: score=True: expected a finite number"),
        ({"one": {"stderr": 1}, "two": 1}, r"external/x/one: score=None: expected a finite number"),
        ({"one": {"score": 1, "stderr": -1}, "two": 1}, r"stderr=-1.0: expected a number of at least 0"),
        ({"one": {"score": 1, "num_items": 1.5}, "two": 1}, r"num_items=1.5: expected a whole number above 0"),
        ({"one": {"items": [1]}, "two": 1}, r"items: expected a list of at least 2 numbers"),
        ({"one": {"items": [1, None]}, "two": 1}, r"items\[1\]=None: expected a finite number"),
        ({"one": {"items": [0, 1], "score": 0.6}, "two": 1}, r"score is 0.6, the mean of its items 0.5"),
    ],
)
def test_rubbish_is_refused_by_name(answer: dict[str, Any], message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        read_answer("x", config(), answer)


def test_models_are_compared_by_items_where_these_are_known() -> None:
    suite = Suite([], {"external/x/one": JudgedScore("math")}, {}, "")
    rng = np.random.default_rng(0)
    hard_I = rng.random(200)
    models = [{"one": {"items": (hard_I + gain).tolist()}, "two": 0} for gain in (0.01, 0.0)]
    first, second = (read_answer("x", config(), model) for model in models)
    paired = compare(suite, first, second)
    assert (paired.verdict, paired.difference) == ("better", pytest.approx(-0.01))

    def summary(stderr: float | None) -> list[dict[str, Items]]:
        scores = [float(hard_I.mean()) + gain for gain in (0.01, 0.0)]
        return [read_answer("x", config(), {"one": {"score": one, "stderr": stderr}, "two": 0}) for one in scores]

    apart = compare(suite, *summary(0.02))
    assert (apart.verdict, apart.stderr) == ("not distinguishable", pytest.approx(0.02 * np.sqrt(2)))
    unknown = compare(suite, *summary(None))
    assert (unknown.verdict, unknown.low, unknown.high) == ("not distinguishable", None, None)
    nothing = combined(unknown, seeds_std=None, predictor_std=0.0)
    assert (nothing["low"], nothing["unmeasured"]) == (None, ["items", "seeds"])
    assert combined(unknown, seeds_std=0.001, predictor_std=0.0)["verdict"] == "better"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"command": ["harness"]}, r"suite.external.x.command=\['harness'\]: .*{checkpoint}"),
        ({"format": "gguf"}, r"suite.external.x.format=gguf: expected one of megatron, huggingface"),
        ({"scores": {}}, r"suite.external.x.scores: expected at least one name"),
        ({"timeout_s": 0}, r"timeout_s=0, retries=1: expected above 0 s"),
        (
            {"scores": {"one": ExternalScoreConfig("math", "acc", True, use="seach")}},
            r"scores.one.use: expected one of",
        ),
        ({"scores": {"one": ExternalScoreConfig("math", "acc", True, weight=0)}}, r"scores.one.weight=0: expected"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        external_scores(SuiteConfig(external={"x": config(**changed)}))


def test_a_score_depends_on_the_program_it_comes_from(tmp_path: Path) -> None:
    script = tmp_path / "harness.py"
    script.write_text("1")

    def prints(**more: Any) -> dict[str, str]:
        words = ["python3", str(script), "{checkpoint}", f"--table={script}"]
        return external_fingerprints(SuiteConfig(external={"x": config(**{"command": words, **more})}))

    before = prints()
    assert list(before) == ["external/x/one", "external/x/two"]
    assert prints(retries=3, timeout_s=1, keep_checkpoint=True) == before
    assert not set(prints(format="huggingface").values()) & set(before.values())
    assert not set(prints(command=["python3", str(script), "{checkpoint}", "-v"]).values()) & set(before.values())
    script.write_text("2")
    assert not set(prints().values()) & set(before.values())


def test_the_last_line_of_json_counts_and_all_output_is_kept(tmp_path: Path) -> None:
    script = "import sys; print('{not json'); print('{\"a\": 1}'); print('bye'); print('loading', file=sys.stderr)"
    asked = command(tmp_path, script)
    assert Commands().run(asked) == {"a": 1}
    assert {"bye", "loading", "{not json"} <= set(asked.log.read_text().splitlines())
    asked = command(tmp_path, "import os; os.write(1, b'[1]')")
    with pytest.raises(ScoreError, match=r"external/x: m: expected a line of JSON on standard output, found none"):
        Commands().run(asked)
    script = f"open({str(tmp_path / 'answer.json')!r}, 'w').write('[1]')"
    with pytest.raises(ScoreError, match=r"expected a JSON object in \{output\}, found list"):
        Commands().run(command(tmp_path, script, with_output=True))
    with pytest.raises(ScoreError, match=r"did not write \{output\}"):  # nor does an earlier answer count
        Commands().run(command(tmp_path, "pass", with_output=True))


def test_a_failure_is_tried_again_and_says_why(tmp_path: Path) -> None:
    counter = tmp_path / "tries"
    script = (
        f"import sys; f = open({str(counter)!r}, 'a+'); f.write('x'); f.seek(0); n = len(f.read())\n"
        "print('{\"tries\": %d}' % n) if n > 1 else sys.exit('CUDA out of memory')"
    )
    with pytest.raises(
        ScoreError, match=r"external/x: m: exit code 1 after 0 s; the end of .*m.log: CUDA out of memory"
    ):
        Commands().run(command(tmp_path, script))
    counter.unlink()
    assert Commands().run(command(tmp_path, script, retries=1)) == {"tries": 2}
    missing = Command("external/x: m", ["no-such-program"], {}, None, tmp_path / "logs/m.log", 60, 0)
    with pytest.raises(ScoreError, match=r"exit code 127 .*no-such-program: No such file"):
        Commands().run(missing)


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "w").write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
time.sleep(600)
"""


def wait_for(condition: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_takes_too_long_is_killed_with_its_daemons(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    words = [sys.executable, "-c", DAEMON, str(path)]
    with pytest.raises(ScoreError, match=r"not done after timeout_s=2, and killed"):
        Commands().run(Command("external/x: m", words, {}, None, tmp_path / "m.log", 2, 0))
    assert path.read_text()
    wait_for(lambda: not Path(f"/proc/{path.read_text()}").exists())  # what was killed is reaped a moment later


def test_nothing_outlives_the_process_that_asked(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    asker = (
        "import sys; from pathlib import Path; from nemo_demix.scoring.external.command import Command, Commands\n"
        f"Commands().run(Command('x', [sys.executable, '-c', {DAEMON!r}, {str(path)!r}], {{}}, None, "
        f"Path({str(tmp_path / 'm.log')!r}), 600, 0))"
    )
    process = subprocess.Popen([sys.executable, "-c", asker], cwd=REPOSITORY)
    wait_for(lambda: path.exists() and path.read_text())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not Path(f"/proc/{path.read_text()}").exists())


def recipe(tmp_path: Path, **more: Any) -> tuple[Path, Path]:
    """A recipe whose suite is one external command, and the command's script."""
    script = tmp_path / "harness.py"
    script.write_text(HARNESS.replace("MARKER", str(tmp_path / "marker")))
    scores = {
        name: {"capability": "norms", "unit": "weight", "higher_is_better": True, "use": use}
        for name, use in (("mean", "search"), ("first", "fit"))
    }
    external = {"command": [sys.executable, str(script), "{checkpoint}", "{output}", "{name}"], "scores": scores}
    suite = {"heldout_tokens": 0, "external": {"norms": {**external, "retries": 0, **more}}}
    path = tmp_path / "mine.yaml"
    path.write_text(f"defaults: [smoke, _self_]\nsuite: {json.dumps(suite)}\n")
    return path, script


def without_benchmarks(run: Path) -> list[str]:
    manifest = json.loads((run / "datasets/manifest.json").read_text())
    return [f"~suite.benchmarks.{name}" for name in manifest["benchmarks"]]


def value_of(checkpoint: str) -> Any:
    return CheckpointReader(Path(checkpoint)).read_tensor(TENSOR).double().numpy()


@pytest.mark.slow
def test_a_search_by_external_scores_alone_starts_no_rank(smoke_run: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path, "search", "models/final", "final")
    run = runs / "smoke"
    components = {
        path.parent.name: value_of(json.loads(path.read_text())["checkpoint"])
        for path in run.glob("models/component/*/record.json")
    }
    mine, _ = recipe(tmp_path)
    arguments = ["--config-name", str(mine), f"runs_dir={runs}", *without_benchmarks(run), *QUICK]
    run_cli("prepare", *arguments)
    said = run_cli("search", *arguments, "search.iterations=[9]").stderr
    assert " over gloo" not in said
    assert not (run / "search/external").exists()
    rows = [json.loads(line) for line in (run / "search/scores.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["FAILED"] + ["OK"] * 8
    for row in rows[1:]:
        expected_D = sum(weight * components[name] for name, weight in row["merge_weights"].items())
        assert row["scores"]["external/norms/mean"]["score"] == pytest.approx(expected_D.mean(), rel=1e-5)
        assert row["scores"]["external/norms/first"]["score"] == pytest.approx(expected_D[0], rel=1e-5)
        assert row["capabilities"]["norms"]["stderr"] == 0.01
        assert row["external_time_s"] > 0
    for part in ("external/norms: p_", "exit code 1", "the harness is out of order"):
        assert part in rows[0]["reason"]
    mixture = json.loads((run / "search/mixture.json").read_text())
    assert (mixture["num_failed"], mixture["measured"]["norms"]["num_items"]) == (1, 50)
    refused = run_cli("search", *arguments, "search.proxy=predictions", expect=2).stderr
    assert "external/norms/mean: mixed predictions have scores in bits per byte only" in refused


@pytest.mark.slow
def test_a_failed_command_costs_no_rank_twice(smoke_run: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path, "search", "models/final", "final", "scores")
    run = runs / "smoke"
    mine, _ = recipe(tmp_path)
    arguments = ["--config-name", str(mine), f"runs_dir={runs}", "parallel.tensor=1"]
    checkpoint = next((run / "models/component/code_1/checkpoints").glob("step_*"))
    arguments += [f"score.checkpoint={checkpoint}", "score.name=one"]
    run_cli("prepare", *arguments)
    first = run_cli("score", *arguments, expect=2).stderr
    assert " over gloo" in first
    assert "one: external/norms: one: exit code 1" in first
    assert not (run / "scores/one.json").exists()

    second = run_cli("score", *arguments).stderr
    assert " over gloo" not in second
    record = json.loads((run / "scores/one.json").read_text())
    assert record["scores"]["external/norms/mean"]["score"] == pytest.approx(value_of(str(checkpoint)).mean())
    assert {"norms", "math", "code"} <= set(record["capabilities"])
    assert not list((run / "scores/parts").iterdir())
    assert "score: done already" in run_cli("score", *arguments).stderr


@pytest.mark.slow
def test_a_command_may_ask_for_a_hugging_face_model(smoke_run: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path, "search", "models/final", "final", "scores")
    run = runs / "smoke"
    mine, script = recipe(tmp_path, format="huggingface", keep_checkpoint=True)
    script.write_text(
        "import sys, json; from pathlib import Path; folder = Path(sys.argv[1])\n"
        "from transformers import AutoConfig, AutoTokenizer; config = AutoConfig.from_pretrained(folder)\n"
        "size = sum(path.stat().st_size for path in folder.glob('*.safetensors'))\n"
        "answer = {'mean': config.num_hidden_layers, 'first': len(AutoTokenizer.from_pretrained(folder))}\n"
        "Path(sys.argv[2]).write_text(json.dumps(answer if size else {}))"
    )
    arguments = ["--config-name", str(mine), f"runs_dir={runs}", *without_benchmarks(run)]
    (tmp_path / "mixtures.json").write_text('{"half": {"general": 0.5, "math_1": 0.5}}')
    arguments += [f"score.mixtures={tmp_path / 'mixtures.json'}"]
    run_cli("prepare", *arguments)
    assert " over gloo" not in run_cli("score", *arguments).stderr
    (row,) = [json.loads(line) for line in (run / "scores/proxies.jsonl").read_text().splitlines()]
    assert row["status"] == "OK"
    found = {name: score["score"] for name, score in row["scores"].items()}
    assert found == {"external/norms/mean": 2.0, "external/norms/first": 1024.0}
    (kept,) = (run / "search/external").glob("*")
    assert [path.name for path in kept.iterdir()] == ["huggingface"]
