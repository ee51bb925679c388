"""Training through the NeMo recipe, on real ranks."""

import json
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nemo_demix.artifacts import ModelRecord, load_record
from nemo_demix.checkpoints.metadata import read_metadata
from tests.helpers import fork_run, losses, run_cli
from tests.hostile_checkpoints import PASSED_OVER, planted


def test_tensor_parallelism_does_not_change_the_loss(smoke_run: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path, "models/component/code_1")
    run_cli(
        "train", "--config-name", "smoke", f"runs_dir={runs}", "role=component", "component=code_1", "parallel.tensor=1"
    )
    one, two = losses(runs / "smoke/models/component/code_1"), losses(smoke_run / "models/component/code_1")
    assert set(one) == set(two) == set(range(1, 17))
    assert max(abs(one[step] - two[step]) for step in one) < 1e-4


def test_every_model_has_a_record_and_moved_from_the_base(smoke_run: Path) -> None:
    paths = sorted(smoke_run.glob("models/*/*/record.json"))
    assert [path.parent.parent.name for path in paths] == ["base", *["component"] * 7, *["final"] * 2]
    for path in paths:
        record = load_record(path, ModelRecord)
        assert Path(record.checkpoint).is_dir()
        assert abs(sum(record.blend.values()) - 1) < 1e-9
        if record.role == "base":
            assert record.delta is None
        else:
            assert record.delta is not None
            assert 0 < record.delta < 0.5
        assert record.final_loss == losses(path.parent)[record.num_steps]


def test_a_component_starts_from_the_bases_weights(smoke_run: Path) -> None:
    base = losses(smoke_run / "models/base/base")
    first = losses(smoke_run / "models/component/general")[1]
    assert abs(first - base[max(base)]) < 0.5 < base[1] - first


@pytest.fixture(scope="module")
def half(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a reference of 8 steps that is tracked, offline, and keeps a checkpoint on its way."""
    runs = fork_run(smoke_run, tmp_path_factory.mktemp("half"), "models/component/math_1")
    run_cli(
        "train", "--config-name", "smoke", f"runs_dir={runs}", "role=reference", "reference.name=half",
        "+reference.shares={general: 0.5, code_1: 0.5}", "reference.num_tokens=8192", "reference.max_lr=1e-3",
        "reference.keep_tokens=[4096]", "train.checkpoint_every_tokens=2048", "train.log_every_steps=2",
        "track.tensorboard=true", "track.wandb_project=mixtures", "track.wandb_mode=offline",
    )  # fmt: skip
    return runs / "smoke"


@pytest.mark.slow
def test_intermediate_checkpoints_are_removed_and_asked_ones_kept(smoke_run: Path, half: Path) -> None:
    kept = [path.name for path in (smoke_run / "models/component/math_1/checkpoints").iterdir()]
    assert kept == ["step_00000016"]
    folder = half / "models/reference/half"
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step_00000004", "step_00000008"]
    assert set(json.loads((folder / "record.json").read_text())["checkpoints"]) == {"4096", "8192"}


def test_trackers_get_loss_learning_rate_and_throughput_of_a_model(half: Path) -> None:
    events = EventAccumulator(str(half / "tensorboard/reference/half"))
    events.Reload()
    trained = losses(half / "models/reference/half")
    assert {one.step for one in events.Scalars("tokens_per_s")} == {2, 4, 6, 8}
    assert all(one.value > 0 for name in ("tokens_per_s", "lr") for one in events.Scalars(name))
    assert events.Scalars("reduced_train_loss")[-1].value == pytest.approx(trained[8], rel=1e-5)
    (kept,) = half.glob("wandb/offline-run-*/*.wandb")
    assert all(name in kept.read_bytes() for name in (b"reduced_train_loss", b"tokens_per_s", b"smoke/reference/half"))


def test_what_was_killed_between_its_last_checkpoint_and_its_record_lacks_that_alone(
    smoke_run: Path, tmp_path: Path
) -> None:
    runs = fork_run(smoke_run, tmp_path, "models/component/math_2/record.json")
    model = runs / "smoke/models/component/math_2"
    shutil.copytree(model / "checkpoints/step_00000016", model / "checkpoints/step_00000012")  # not removed yet
    before = json.loads((smoke_run / "models/component/math_2/record.json").read_text())
    steps = (model / "losses.jsonl").read_bytes()
    arguments = ("train", "--config-name", "smoke", f"runs_dir={runs}", "role=component", "component=math_2")
    assert "component/math_2: all its steps were done before" in run_cli(*arguments).stderr
    after = json.loads((model / "record.json").read_text())
    for key in before.keys() - {"wall_time_s", "start", "checkpoint", "checkpoints"}:
        assert after[key] == before[key], key
    assert after["checkpoint"] == str(model / "checkpoints/step_00000016")
    assert [path.name for path in (model / "checkpoints").iterdir()] == ["step_00000016"]
    assert (model / "losses.jsonl").read_bytes() == steps


@pytest.mark.slow
def test_a_component_repeats_a_part_of_its_text(smoke_run: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path, "models/component/code_1")
    settings = ("--config-name", "smoke", f"runs_dir={runs}", "role=component", "component=code_1")
    said = run_cli("train", *settings, "components.epochs=8").stderr
    assert "component/code_1: is shown" in said
    parts = {path.name.rpartition("_")[0]: path for path in (runs / "smoke/datasets/parts").glob("*.bin")}
    assert set(parts) == {"general", "code_1"}
    assert 2 * 1536 <= parts["code_1"].stat().st_size < 2 * 8000  # 12,288 tokens of two bytes, eight times; whole files
    model = "models/component/code_1"
    repeated, fresh = losses(runs / "smoke" / model), losses(smoke_run / model)
    assert sum(repeated[step] for step in range(13, 17)) < sum(fresh[step] for step in range(13, 17))
    assert "done already" in run_cli("train", *settings, "components.epochs=8").stderr


def test_a_component_can_be_brought(smoke_run: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path, "models/component/code_2")
    brought = smoke_run / "models/component/code_1/checkpoints/step_00000016"
    run_cli(
        "train", "--config-name", "smoke", f"runs_dir={runs}", "role=component", "component=code_2",
        f"+components.checkpoints.code_2={brought}",
    )  # fmt: skip
    record = load_record(runs / "smoke/models/component/code_2/record.json", ModelRecord)
    assert (record.checkpoint, record.num_tokens) == (str(brought), 0)
    assert not (runs / "smoke/models/component/code_2/checkpoints").exists()


def test_a_base_of_a_stranger_is_trained_from_and_nothing_of_it_runs(smoke_run: Path, tmp_path: Path) -> None:
    """Every payload that a reader passes over, at once; those that it meets: tests/checkpoints/test_hostile.py."""
    witness = tmp_path / "ran"
    base = smoke_run / "models/base/base/checkpoints/step_00000040"
    stranger = planted(base, tmp_path / "stranger", witness, *PASSED_OVER.values())
    runs = fork_run(smoke_run, tmp_path, "models/component", "models/base")
    settings = ("--config-name", "smoke", f"runs_dir={runs}", f"base.checkpoint={stranger}")
    run_cli("train", *settings, "role=base")
    run_cli("train", *settings, "role=component", "component=code_1", "components.num_tokens=2048")
    assert not witness.exists()
    trained = runs / "smoke/models/component/code_1"
    assert losses(trained)[1] == losses(smoke_run / "models/component/code_1")[1], "it started from these weights"
    assert not (trained / ".vetted").exists()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["role=teacher"], "role=teacher: expected one of base, component, reference, final"),
        (["role=component", "component=poetry"], "component=poetry"),
        (["role=reference", "reference.name=mine"], "set reference.name, reference.shares"),
        (["role=component", "index=7"], "index=7: role=component has 7 models, counted from 0"),
        (["role=base", "base.num_tokens=10"], "less than one step of 1024"),
        (["role=base", "parallel.data=2"], "train.global_batch_size=8"),
        (["role=base", "++base.blend={poetry: 1.0}"], "poetry"),
        (["role=base", "parallel.nodes=2"], "parallel.nodes=2"),
        (["role=base", "base.checkpoint=/nowhere"], "/nowhere: not found; expected a checkpoint folder"),
    ],
)
def test_a_mistake_is_one_line_before_any_rank_starts(
    smoke_run: Path, tmp_path: Path, overrides: list[str], expected: str
) -> None:
    runs = fork_run(smoke_run, tmp_path, "models/base", "models/component")
    result = run_cli("train", "--config-name", "smoke", f"runs_dir={runs}", *overrides, expect=2)
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_name_the_recipe_does_not_have_is_refused(smoke_run: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path, "models/base")
    result = run_cli(
        "train", "--config-name", "smoke", f"runs_dir={runs}", "role=base",
        "+model.overrides.model.config.num_layerz=3", expect=2,
    )  # fmt: skip
    assert "model.overrides.model.config.num_layerz" in result.stderr
    assert "num_layers" in result.stderr


@pytest.mark.slow
def test_a_component_can_continue_with_the_bases_optimizer(smoke_run: Path, tmp_path: Path) -> None:
    """And a final model, of a mixture that needs no components."""
    runs = fork_run(smoke_run, tmp_path, "models", "search", "final", "scores")
    settings = [
        "--config-name", "smoke", f"runs_dir={runs}", "components.load_optimizer=true", "base.num_tokens=8192",
        "components.num_tokens=4096", "final.num_tokens=2048", "final.load_optimizer=true", "suite.heldout_tokens=0",
        "suite.items_per_benchmark=2", "search=equal",
    ]  # fmt: skip
    run_cli("run", *settings)
    for name in ("general", "code_1"):
        run_cli("train", *settings, "role=component", f"component={name}")
    run = runs / "smoke"
    optimizer = [name for name in _stored(run / "models/base/base/checkpoints/step_00000008") if "exp_avg" in name]
    assert optimizer
    assert not [
        name for name in _stored(run / "models/component/code_1/checkpoints/step_00000004") if "exp_avg" in name
    ]
    assert set(losses(run / "models/component/general")) == {1, 2, 3, 4}


@pytest.mark.slow
def test_a_model_of_another_configuration_is_moved_aside(smoke_run: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path, "search", "final", "scores")
    models = runs / "smoke/models"
    old = losses(models / "component/code_1")
    arguments = ["--config-name", "smoke", f"runs_dir={runs}", "role=component", "component=code_1"]
    asked = run_cli("train", *arguments, "components.max_lr=5e-4", expect=2).stderr
    assert "component/code_1: its schedule (max_lr, min_lr_ratio, warmup_share) ([0.001, 0.2, 0.02] -> [0.0005" in asked
    assert "--yes trains them again" in asked
    assert losses(models / "component/code_1") == old
    run_cli("train", *arguments, "components.max_lr=5e-4", "--yes")
    assert losses(models / "superseded/component_code_1_1") == old
    assert losses(models / "component/code_1") != old
    assert (models / "superseded/component_code_1_1/record.json").exists()


def _stored(checkpoint: Path) -> list[str]:
    return list(read_metadata(checkpoint / "weights").tensors)
