"""`launch`, `status` and `cancel` against a real Slurm, whose jobs run a stand-in."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from nemo_demix.artifacts import read_json
from nemo_demix.config import DemixConfig, register_schema, to_dataclasses
from nemo_demix.errors import ClusterError, DemixError
from nemo_demix.stages.launch import cancel_stage, configuration_fingerprint, launch_stage
from nemo_demix.stages.status import status_stage
from tests.cluster.lab import Lab
from tests.helpers import REPOSITORY, fork_run, run_cli

STAGES = ["prepare", "base", "components", "search", "final"]


def configuration(runs: Path, *overrides: str, recipe: Path = REPOSITORY / "recipes/smoke.yaml") -> DemixConfig:
    """The smoke recipe on one GPU a node, as the command line composes it."""
    register_schema()
    GlobalHydra.instance().clear()
    ours = [f"runs_dir={runs}", "launch.max_parallel=2", "+launch.options.gpus-per-node=1", "parallel.nodes=2"]
    search = ["hydra.searchpath=[pkg://nemo_demix.conf]"]
    with initialize_config_dir(str(recipe.parent), version_base="1.3"):
        return to_dataclasses(
            compose(recipe.stem, overrides=[*search, *(ours if recipe.name == "smoke.yaml" else []), *overrides])
        )


@pytest.fixture
def jobs_run(monkeypatch: pytest.MonkeyPatch, slurm: Lab, stand_in: dict[str, str]) -> dict[str, str]:
    """This process submits to the lab, and its jobs find the stand-in; returns the stand-in's environment."""
    for name, value in {**stand_in, "SLURM_CONF": slurm.environment["SLURM_CONF"]}.items():
        monkeypatch.setenv(name, value)
    return stand_in


def commands(text: str) -> dict[str, list[str]]:
    """The sbatch commands that a dry run printed, by stage."""
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("sbatch")]
    return {next(Path(word).stem for word in line if word.endswith(".sbatch")): line for line in lines}


def submitted(config: DemixConfig) -> list[tuple[str, str, list[int] | None]]:
    """Stage, job id and array indices of every job that was submitted."""
    path = config.run_dir / "launch/jobs.json"
    return [(job["stage"], job["job"], job["indices"]) for job in read_json(path)["jobs"]] if path.exists() else []


@pytest.mark.parametrize(
    ("overrides", "waits_for"),
    [
        ([], {"base": "PREPARE", "components": "BASE", "search": "COMPONENTS", "final": "SEARCH"}),
        (["search.strategy=regmix"], {"base": "PREPARE", "search": "BASE", "final": "SEARCH"}),
        (["search.strategy=equal"], {"base": "PREPARE", "search": "BASE", "final": "SEARCH"}),
        (
            ["launch.verify=true"],
            {"base": "PREPARE", "components": "BASE", "references": "BASE", "verify": "COMPONENTS:REFERENCES",
             "search": "COMPONENTS:VERIFY", "final": "SEARCH"},
        ),
    ],
)  # fmt: skip
def test_a_dry_run_shows_the_jobs_and_what_they_wait_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], waits_for: dict[str, str]
) -> None:
    launch_stage(configuration(tmp_path, *overrides, "launch.dry_run=true"))
    found = commands(capsys.readouterr().out)
    assert list(found) == ["prepare", *waits_for]
    for stage, parents in waits_for.items():
        assert f"--dependency=afterok:{parents}" in found[stage]
        assert "--kill-on-invalid-dep=yes" in found[stage]
        assert "--nodes=2" in found[stage]
    assert "--nodes=1" in found["prepare"]
    arrays = {stage: word for stage, line in found.items() for word in line if word.startswith("--array")}
    expected = {"components": "--array=0-6%2", "references": "--array=0-23%2"}
    assert arrays == {stage: word for stage, word in expected.items() if stage in waits_for}
    assert not any(tmp_path.iterdir())


def test_a_stage_can_have_its_own_layout_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["parallel.nodes=1", "search.groups=1"]
    options = ["+launch.jobs.search.options.time=1:00:00", "+launch.jobs.search.options.exclusive=false"]
    more = [f"launch.jobs.search.overrides={own}", *options]
    launch_stage(configuration(tmp_path, *more, "launch.dry_run=true"))
    found = commands(capsys.readouterr().out)
    assert {"--nodes=1", "--time=1:00:00", "--gpus-per-node=1"} <= set(found["search"])
    assert found["search"][-2:] == own
    assert "--nodes=2" in found["final"]


@pytest.mark.parametrize("name", ["lr=0.1", "it's mine", "a|b", "$(touch ran)"])
def test_a_path_that_shells_and_hydra_would_read_reaches_the_job_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    runs = tmp_path / name
    quoted = str(runs).replace("'", "\\'")
    launch_stage(configuration(tmp_path, f"runs_dir='{quoted}'", "launch.dry_run=true"))
    words = commands(capsys.readouterr().out)["prepare"]
    given = words[next(place for place, word in enumerate(words) if word.endswith(".sbatch")) + 1 :]
    # What the batch script does with its arguments, up to the program that srun would start.
    script = 'source slurm/common.sh; srun() { printf "%s\\0" "$@"; }; demix prepare "$@"'
    found = subprocess.run(
        ["bash", "-c", script, "x", *given], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    arguments = found.stdout.split("\0")
    assert arguments[arguments.index("--config-name") + 1] == str(runs / "smoke/launch/recipe.yaml")
    assert not (REPOSITORY / "ran").exists()


@pytest.mark.slow
def test_without_slurm_launch_says_what_to_do_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    refused = run_cli("launch", "--config-name", "smoke", f"runs_dir={tmp_path}", expect=2)
    assert "no Slurm here" in refused.stderr
    assert "`nemo-demix run` with the same arguments" in refused.stderr
    shown = run_cli("launch", "--dry-run", "--config-name", "smoke", f"runs_dir={tmp_path}")
    assert list(commands(shown.stdout)) == STAGES


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["force=true"], "a job that is requeued would start over"),
        (["launch.through=ssh"], "launch.through=ssh: expected one of slurm, nemo_run, local"),
        (['launch.jobs.search.overrides=["paralel.nodes=1"]'], "launch.jobs.search.overrides: paralel: no such key"),
        (['launch.jobs.final.overrides=["parallel.nodes=3"]'], "final: parallel: tensor 2 x pipeline 1 x data 1 = 2"),
        (["launch.site=nowhere.env"], "launch.site=nowhere.env: no such file; copy slurm/site.example.env"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_launched_is_refused(
    tmp_path: Path, overrides: list[str], expected: str
) -> None:
    with pytest.raises(DemixError) as refusal:
        launch_stage(configuration(tmp_path, *overrides, "launch.dry_run=true"))
    assert expected in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("SBATCH_ACCOUNT=\n", "SBATCH_ACCOUNT empty; fill in, or delete the line"),
        ("DEMIX_CONTAINER_IMAGE=/a.sqsh\n", "DEMIX_CONTAINER_MOUNTS is missing; DEMIX_CONTAINER_IMAGE is set"),
        ("DEMIX_CONTAINER_MOUNTS=/data:/data\n", "DEMIX_CONTAINER_IMAGE is missing; DEMIX_CONTAINER_MOUNTS is set"),
        ("SBATCH_PARTITION=(\n", "not a shell file of NAME=VALUE lines"),
    ],
)
def test_a_site_file_that_lacks_a_name_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    site = tmp_path / "site.env"
    site.write_text(content)
    with pytest.raises(ClusterError) as refusal:
        launch_stage(configuration(tmp_path, f"launch.site={site}", "launch.dry_run=true"))
    assert expected in str(refusal.value)
    assert str(site) in str(refusal.value)


def test_the_example_of_a_site_file_asks_to_be_filled_in(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"site\.example\.env: SBATCH_ACCOUNT, SBATCH_PARTITION empty"):
        launch_stage(configuration(tmp_path, f"launch.site={REPOSITORY}/slurm/site.example.env", "launch.dry_run=true"))


def test_launching_again_attaches_and_cancelling_makes_room(
    slurm: Lab,
    jobs_run: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STAND_IN", "wait")
    config = configuration(tmp_path)
    launch_stage(config)
    first = submitted(config)
    assert [stage for stage, _, _ in first] == STAGES
    jobs = {stage: job for stage, job, _ in first}
    slurm.wait_until(jobs["prepare"], "RUNNING")
    assert slurm.states(jobs["components"]) == ["PENDING"] * 7
    assert slurm.run("squeue", "-h", "-j", jobs["search"], "-o", "%E") == f"afterok:{jobs['components']}_*(unfulfilled)"
    waits_for = ("squeue", "-h", "-j", jobs["components"], "-o", "%r")  # Slurm says it when it has looked at the job
    slurm.wait(lambda: slurm.run(*waits_for) == "Dependency", 30, "the components to wait for what they depend on")
    assert jobs["final"] in capsys.readouterr().out

    launch_stage(config)
    assert submitted(config) == first
    assert f"queued already: {jobs['prepare']}" in capsys.readouterr().out
    status_stage(config)
    shown = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("│")}
    assert "RUNNING" in shown["prepare"]
    assert jobs["prepare"] in shown["prepare"]
    assert "7 PENDING (Dependency)" in shown["components"]

    with pytest.raises(ClusterError) as refusal:
        launch_stage(configuration(tmp_path, "seed=7", "search.iterations=[4,2]"))
    assert "differs in seed, search.iterations" in str(refusal.value)
    assert jobs["prepare"] in str(refusal.value)
    launch_stage(configuration(tmp_path, "launch.max_parallel=1"))  # no part of what the jobs run
    assert submitted(config) == first

    cancel_stage(config)
    assert {state for job in jobs.values() for state in slurm.states(job)} == {"CANCELLED"}
    launch_stage(configuration(tmp_path, "seed=7"))
    second = submitted(config)[len(first) :]
    assert [stage for stage, _, _ in second] == STAGES
    assert not {job for _, job, _ in second} & set(jobs.values())


def test_jobs_run_the_recipe_as_it_was_when_they_were_submitted(
    jobs_run: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STAND_IN", "wait")
    config = configuration(tmp_path, "components.max_lr=3e-5", "seed=11")
    launch_stage(config)
    recipe = tmp_path / "smoke/launch/recipe.yaml"
    assert configuration_fingerprint(configuration(tmp_path, recipe=recipe)) == configuration_fingerprint(config)
    assert f"recipe={recipe}" in read_json(recipe.with_name("jobs.json"))["jobs"][0]["command"]


def test_a_failed_stage_cancels_those_that_wait_for_it(
    slurm: Lab, jobs_run: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STAND_IN", "fail_")
    config = configuration(tmp_path)
    launch_stage(config)
    jobs = {stage: job for stage, job, _ in submitted(config)}
    for stage in STAGES[1:]:
        slurm.wait_until(jobs[stage], "CANCELLED")
    assert slurm.states(jobs["prepare"]) == ["FAILED"]


@pytest.mark.slow
def test_one_failed_task_of_an_array_is_submitted_again_alone(
    slurm: Lab, jobs_run: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, smoke_run: Path
) -> None:
    """Of two components that are not trained one fails; the stand-in trains by putting the record back."""
    runs = fork_run(smoke_run, tmp_path / "runs")
    models = runs / "smoke/models/component"
    kept = tmp_path / "kept"
    for index, name in ((3, "math_3"), (5, "code_2")):
        (kept / str(index) / name).mkdir(parents=True)
        shutil.move(models / name / "record.json", kept / str(index) / name)
    monkeypatch.setenv("STAND_IN", "fail_5")
    monkeypatch.setenv("STAND_IN_DO", f'cp -r "{kept}/$SLURM_ARRAY_TASK_ID"/* {models}')
    config = configuration(runs, "parallel.nodes=1")
    launch_stage(config)
    first = submitted(config)
    assert first[0][::2] == ("components", [3, 5])
    jobs = {stage: job for stage, job, _ in first}
    slurm.wait_until(jobs["components"], "COMPLETED", "FAILED")
    assert slurm.states(jobs["components"]) == ["COMPLETED", "FAILED"]

    Path(jobs_run["STAND_IN_CALLS"] + ".mended").touch()
    launch_stage(config)
    second = submitted(config)[len(first) :]
    assert second[0][0] == "components"
    assert second[0][2] == [5]
    last = submitted(config)[-1][1]
    slurm.wait_until(last, "COMPLETED")
    assert slurm.states(second[0][1]) == ["COMPLETED"]


def test_a_queued_job_waits_for_what_was_submitted_again(
    slurm: Lab, jobs_run: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STAND_IN", "wait")
    config = configuration(tmp_path)
    launch_stage(config)
    jobs = {stage: job for stage, job, _ in submitted(config)}
    slurm.run("scancel", f"{jobs['components']}_4")
    launch_stage(config)
    stage, again, indices = submitted(config)[-1]
    assert (stage, indices) == ("components", [4])
    waits = slurm.run("squeue", "-h", "-j", jobs["search"], "-o", "%E")
    assert f"afterok:{again}_*(unfulfilled)" in waits
    assert f"afterok:{jobs['components']}_4" not in waits
    assert f"afterok:{jobs['components']}_3(unfulfilled)" in waits


def test_sbatchs_own_words_are_passed_on_with_the_file_that_set_the_value(
    slurm: Lab, jobs_run: dict[str, str], tmp_path: Path
) -> None:
    site = tmp_path / "site.env"
    site.write_text("export SBATCH_PARTITION=nosuch\n")
    with pytest.raises(ClusterError) as refusal:
        launch_stage(configuration(tmp_path, f"launch.site={site}"))
    assert "invalid partition specified: nosuch" in str(refusal.value)
    assert f"SBATCH_PARTITION in {site} is nosuch" in str(refusal.value)
    with pytest.raises(ClusterError) as refusal:
        launch_stage(configuration(tmp_path, "+launch.options.partition=neither"))
    assert "launch.options.partition is neither" in str(refusal.value)
    assert not submitted(configuration(tmp_path))


def test_more_models_than_an_array_holds_are_refused(jobs_run: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"references: 40 models, but arrays of this cluster have at most 32"):
        launch_stage(configuration(tmp_path, "launch.verify=true", "verify.references=40"))
    assert not submitted(configuration(tmp_path))


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("nodes=4", "launch.options.nodes: `launch` sets --nodes itself; nodes come from parallel.nodes"),
        ("time=28800", "launch.options.time=28800: expected a time in quotes"),
    ],
)
def test_an_option_that_is_not_free_is_refused(
    jobs_run: dict[str, str], tmp_path: Path, option: str, expected: str
) -> None:
    with pytest.raises(DemixError) as refusal:
        launch_stage(configuration(tmp_path, f"+launch.options.{option}"))
    assert expected in str(refusal.value)
    assert not submitted(configuration(tmp_path))
