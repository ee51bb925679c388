"""Merges on disk against float64 on whole matrices: every method, at every pair of layouts, always the same bits."""

import itertools
import json
import shutil
import tracemalloc
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from nemo_demix.checkpoints.inspect import describe
from nemo_demix.checkpoints.metadata import Chunk
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.errors import CheckpointError, ConfigError, MixtureError
from nemo_demix.merging import geometry
from nemo_demix.merging import plan as planning
from nemo_demix.merging.merge import MergeOptions, MergeReport, planned_memory_gib
from nemo_demix.merging.methods import METHODS
from nemo_demix.merging.methods.randomness import uniforms
from nemo_demix.merging.verify import verify
from tests.helpers import merge_checkpoints, other
from tests.merging.faults import plan_of
from tests.merging.grids import SHAPES, assemble, logical, random_model, write_checkpoint
from tests.merging.oracles import ORACLES, second_moments

LAYOUTS = [(1, 1), (2, 1), (1, 2), (2, 2)]
NAMES = ("general", "math", "code")
MIXTURES = {
    "mix_0": {"general": 0.2, "math": 0.5, "code": 0.3},
    "mix_1": {"general": 0.7, "math": 0.3},
    "mix_2": {"code": 1.0},
}
SEED = 5
PARAMETERS = {
    "ties": {"density": 0.3}, "dare_linear": {"density": 0.5}, "dare_ties": {"density": 0.5},
    "della": {"density": 0.6, "epsilon": 0.2}, "della_linear": {"density": 0.6, "epsilon": 0.2},
    "breadcrumbs": {"density": 0.4, "gamma": 0.1}, "breadcrumbs_ties": {"density": 0.4, "gamma": 0.1},
    "sce": {"select_topk": 0.4}, "task_arithmetic": {"scale": 0.8},
}  # fmt: skip


@pytest.fixture(scope="module")
def models() -> dict[str, dict[str, torch.Tensor]]:
    base = random_model(0)
    return {"base": base, **{name: random_model(i + 1, base) for i, name in enumerate(NAMES)}}


@pytest.fixture(scope="module")
def saved(models: dict, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, tuple[int, int]], Path]:
    """Every model at every layout; components with their optimizer's second moments, in one of their precisions."""
    folder = tmp_path_factory.mktemp("saved")
    return {
        (name, layout): write_checkpoint(
            folder / f"{name}_{layout[0]}_{layout[1]}", tensors if name == "base" else with_moments(tensors), *layout
        )
        for name, tensors in models.items()
        for layout in LAYOUTS
    }


MOMENTS = "optimizer.state.exp_avg_sq."


def with_moments(tensors: Mapping[str, torch.Tensor], names: Iterable[str] = SHAPES) -> dict[str, torch.Tensor]:
    return {**tensors, **{f"{MOMENTS}{name}": second_moments(tensors[name].float()) for name in names}}


def run(components, base, output, method="linear", parameters=None, mixtures=None, workers=1, **more) -> MergeReport:
    options = more.pop("options", MergeOptions(workers, 2.0))
    return merge_checkpoints(
        components, output, mixtures or MIXTURES, method, parameters, base, SEED, options=options, **more
    )


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    reader = CheckpointReader(path)
    return {name: reader.read_tensor(name) for name in reader}


def drawn_numbers(component: str, tensor: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform numbers of a stored tensor, float64: each layer and expert has its own, by the name with its number."""
    name = tensor.removeprefix("module.")
    stacks = [stack for stack in (".layers.", ".experts.experts.") if stack in name]
    own = shape[len(stacks) :]
    found = []
    for numbers in np.ndindex(shape[: len(stacks)]):
        unit = name
        for stack, number in zip(stacks, numbers, strict=True):
            unit = unit.replace(stack, f"{stack}{number}.")
        found.append(uniforms(SEED, component, unit, 0, int(np.prod(own))).numpy())
    return np.concatenate(found).reshape(shape).astype(np.float64)


def oracle(models: Mapping, method: str, parameters: Mapping, weights: Mapping[str, float]) -> dict[str, np.ndarray]:
    names = list(models)[1:][: METHODS[method].num_components or None]
    weights_K = np.array([weights.get(name, 0.0) for name in names])
    merged = {}
    for tensor, shape in SHAPES.items():
        drawn = {name: drawn_numbers(name, tensor, shape) for name in names}
        base = logical(tensor, models["base"][tensor].double().numpy())
        thetas = [logical(tensor, models[name][tensor].double().numpy()) for name in names]
        numbers = [logical(tensor, drawn[name]) for name in names]
        merged[tensor] = assemble(
            tensor,
            {
                key: ORACLES[method](
                    np.array([t[key] for t in thetas]),
                    base[key],
                    weights_K,
                    parameters,
                    np.array([n[key] for n in numbers]),
                )
                for key in base
            },
        )
    return merged


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_its_float64_oracle_and_the_same_bits_at_every_layout(
    method: str, models: dict, saved: dict, tmp_path: Path
) -> None:
    names = NAMES[: METHODS[method].num_components or 3]
    mixtures = {"mix_0": {"general": 0.4, "math": 0.6}} if len(names) == 2 else MIXTURES
    parameters = PARAMETERS.get(method, {})
    first: dict[str, dict[str, torch.Tensor]] | None = None
    for number, (one, two) in enumerate(itertools.product(LAYOUTS, LAYOUTS)):
        if number % 5 and number not in (1, 14):  # equal layouts, and two pairs of others
            continue
        output = tmp_path / str(number)
        components = {name: saved[name, one if i % 2 == 0 else two] for i, name in enumerate(names)}
        run(components, saved["base", two], output, method, parameters, mixtures, workers=1 + number % 2)
        found = {name: tensors_of(output / name) for name in mixtures}
        if first is None:
            first = found
            for name, weights in mixtures.items():
                expected = oracle(models, method, parameters, weights)
                for tensor, value in expected.items():
                    error = np.abs(found[name][tensor].double().numpy() - value).max()
                    assert error < 4e-6 * np.abs(value).max(), (name, tensor, error)
        for name, tensors in found.items():
            for tensor, value in tensors.items():
                assert torch.equal(value.view(torch.int32), first[name][tensor].view(torch.int32)), (
                    one,
                    two,
                    name,
                    tensor,
                )
        grid = {name: [c.offsets for c in e.chunks] for name, e in CheckpointReader(output / "mix_0").tensors.items()}
        expected_grid = CheckpointReader(components[names[0]]).tensors
        assert grid == {name: [c.offsets for c in e.chunks] for name, e in expected_grid.items()}


@pytest.mark.parametrize("method", ["linear", "ties", "karcher", "della"])
def test_bits_do_not_depend_on_the_other_mixtures_or_on_the_number_of_workers(
    method: str, saved: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    components = {name: saved[name, (2, 1)] for name in NAMES}
    run(components, saved["base", (2, 2)], tmp_path / "all", method, workers=1)
    monkeypatch.setattr(planning, "_MIN_UNIT_BYTES", 4096)
    monkeypatch.setattr(geometry, "BLOCK_ELEMENTS", 640)
    run(components, saved["base", (1, 1)], tmp_path / "small", method, workers=3)
    for name, weights in MIXTURES.items():
        run(components, saved["base", (1, 2)], tmp_path / name, method, mixtures={name: weights}, workers=2)
        files = sorted((tmp_path / "all" / name / "weights").glob("*.distcp"))
        assert len(files) >= 2
        for file in files:
            content = file.read_bytes()
            assert (tmp_path / name / name / "weights" / file.name).read_bytes() == content, "alone"
            if method != "karcher":  # its sums are gathered block by block, in other blocks
                assert (tmp_path / "small" / name / "weights" / file.name).read_bytes() == content, "in small blocks"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_one_hot_mixture_is_the_components_own_files(dtype: torch.dtype, tmp_path: Path) -> None:
    base = random_model(0, dtype=dtype)
    base["module.decoder.final_layernorm.weight"][:2] = torch.tensor([-0.0, 0.0], dtype=dtype)
    models = {name: random_model(i, base, dtype) for i, name in enumerate(NAMES)}
    paths = {name: write_checkpoint(tmp_path / name, tensors, 2, 2) for name, tensors in models.items()}
    run(paths, None, tmp_path / "out", mixtures={"only": {"math": 1.0}})
    files = sorted((paths["math"] / "weights").glob("*.distcp"))
    assert len(files) >= 4
    for file in files:
        assert (tmp_path / "out/only/weights" / file.name).read_bytes() == file.read_bytes(), file.name


def test_what_megatron_saved_merges_in_every_layout(
    smoke_run: Path, layouts: dict[str, Path], merges: dict[str, Path]
) -> None:
    code = smoke_run / "models/component/code_1/checkpoints/step_00000016"
    for kind, path in merges.items():
        one = layouts[kind if kind in layouts else "nemo2"]
        two = code if kind == "mixed" else other(one)
        found, first, second = tensors_of(path), tensors_of(one), tensors_of(two)
        assert set(found) == set(first)
        assert len(found) >= 9
        for name, value in found.items():
            exact = 0.25 * first[name].double() + 0.75 * second[name].double()
            assert value.dtype == first[name].dtype
            limit = torch.finfo(value.dtype).eps * exact.abs().clamp_min(1e-30)
            assert bool(((value.double() - exact).abs() <= limit).all()), (kind, name)
        assert describe(path).kind == describe(one).kind
        assert not describe(path).has_optimizer_state
        assert describe(path).architecture == describe(one).architecture


def test_torch_reads_what_was_merged(models: dict, saved: dict, tmp_path: Path) -> None:
    run({name: saved[name, (2, 2)] for name in NAMES}, None, tmp_path / "out")
    expected = tensors_of(tmp_path / "out/mix_0")
    found = {name: torch.empty(shape) for name, shape in SHAPES.items()}
    dcp.load(found, checkpoint_id=str(tmp_path / "out/mix_0/weights"), no_dist=True)
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def test_bf16_outputs_are_rounded_once(tmp_path: Path) -> None:
    base = random_model(0)
    models = {name: random_model(i, base, torch.bfloat16) for i, name in enumerate(NAMES)}
    paths = {name: write_checkpoint(tmp_path / name, tensors) for name, tensors in models.items()}
    # Round weights of values that are mostly alike put many sums halfway between two bf16 numbers.
    mixtures = {"mix": {"general": 0.2137, "math": 0.4791, "code": 0.3072}}
    run(paths, None, tmp_path / "bf16", mixtures=mixtures)
    run(paths, None, tmp_path / "fp32", mixtures=mixtures, dtype=torch.float32)
    same = total = 0
    for name, weights in mixtures.items():
        rounded, full = tensors_of(tmp_path / "bf16" / name), tensors_of(tmp_path / "fp32" / name)
        for tensor, value in full.items():
            assert value.dtype == torch.float32
            assert rounded[tensor].dtype == torch.bfloat16
            assert torch.equal(value.bfloat16(), rounded[tensor])
            exact = sum(weights.get(n, 0.0) * models[n][tensor].double() for n in NAMES)
            ends = [torch.tensor(end).bfloat16() for end in (-torch.inf, torch.inf)]
            neighbours = [torch.nextafter(rounded[tensor], end).double() for end in ends]
            off = (rounded[tensor].double() - exact).abs()
            same += int(((off <= (neighbours[0] - exact).abs()) & (off <= (neighbours[1] - exact).abs())).sum())
            total += value.numel()
    assert same / total > 0.9999


def test_a_small_step_of_the_mixture_shows_in_fp32(saved: dict, tmp_path: Path) -> None:
    near = {"one": {"general": 0.5, "math": 0.5}, "two": {"general": 0.5001, "math": 0.4999}}
    run({name: saved[name, (1, 1)] for name in NAMES}, None, tmp_path / "out", mixtures=near)
    one, two = (tensors_of(tmp_path / "out" / name) for name in near)
    assert all(not torch.equal(one[name], two[name]) for name in SHAPES)


def test_each_source_is_read_once_whatever_the_layouts(saved: dict, tmp_path: Path) -> None:
    layouts = dict(zip(NAMES, [(1, 1), (2, 1), (2, 2)], strict=True))
    report = run({name: saved[name, layouts[name]] for name in NAMES}, None, tmp_path / "out")
    assert report.bytes_read == 3 * 4 * sum(int(np.prod(shape)) for shape in SHAPES.values())


def test_integers_and_objects_must_agree_or_be_chosen(models: dict, tmp_path: Path) -> None:
    def save(name: str, table: int, extra: bytes) -> Path:
        tensors = {**models[name], "module.table": torch.arange(table, table + 6)}
        return write_checkpoint(
            tmp_path / f"{name}{table}{zlib.crc32(extra)}", tensors, objects={"module.x._extra_state/0": extra}
        )

    def archive(value: object, path: Path = tmp_path / "object.pt") -> bytes:
        torch.save(value, path)
        return path.read_bytes()

    same, odd = archive({"amax": 1}), archive({"amax": 2, "scale": 3})
    alike = {name: save(name, 0, same) for name in NAMES}
    run(alike, None, tmp_path / "alike")
    assert torch.equal(tensors_of(tmp_path / "alike/mix_0")["module.table"], torch.arange(6))
    with pytest.raises(CheckpointError, match=r"integers are not averaged, and general and math differ.*objects_from"):
        run({**alike, "math": save("math", 3, same)}, None, tmp_path / "table")
    with pytest.raises(
        CheckpointError, match=r"_extra_state/0: the scales of FP8 .* differ between general and math; .*objects_from"
    ):
        run({**alike, "math": save("math", 0, odd)}, None, tmp_path / "object")
    chosen = {**alike, "math": save("math", 3, odd)}
    run(chosen, None, tmp_path / "chosen", objects_from="math")
    assert torch.equal(tensors_of(tmp_path / "chosen/mix_0")["module.table"], torch.arange(3, 9))
    assert odd in (tmp_path / "chosen/mix_0/weights/__0_0.distcp").read_bytes()


def test_nan_is_named_and_let_through_only_where_asked(models: dict, saved: dict, tmp_path: Path) -> None:
    broken = {name: value.clone() for name, value in models["math"].items()}
    name = "module.decoder.layers.mlp.linear_fc2.weight"
    broken[name][1, 3, :2] = torch.tensor([torch.nan, -torch.inf])
    components = {n: saved[n, (1, 1)] for n in NAMES} | {"math": write_checkpoint(tmp_path / "broken", broken, 2)}
    with pytest.raises(CheckpointError, match=rf"{name} has 2 values that are NaN or infinite.*allow_nonfinite"):
        run(components, None, tmp_path / "refused")
    assert not list((tmp_path / "refused").glob("mix_*"))
    run(components, None, tmp_path / "out", allow_nonfinite=True)
    bad = ~tensors_of(tmp_path / "out/mix_0")[name].isfinite()
    assert int(bad.sum()) == 2
    assert tensors_of(tmp_path / "out/mix_2")[name].isfinite().all(), "a component of weight 0 leaves no trace"
    record = json.loads((tmp_path / "out/mix_0/merge.json").read_text())
    assert record["nonfinite"] == {f"math: {name}": 2}


def test_other_models_are_refused(models: dict, saved: dict, tmp_path: Path) -> None:
    def against(tensors: Mapping[str, torch.Tensor], folder: str, **config: object) -> None:
        other = write_checkpoint(tmp_path / folder, tensors, config=config)
        run(
            {"general": saved["general", (2, 1)], "other": other},
            None,
            tmp_path / "out",
            mixtures={"m": {"other": 1.0}},
        )

    some = dict(models["math"])
    with pytest.raises(CheckpointError, match=r"different models: num_attention_heads is 4 and 8"):
        against(some, "heads", num_attention_heads=8)
    with pytest.raises(CheckpointError, match=r"only other has module\.output_layer\.weight; one has tied embeddings"):
        against({**some, "module.output_layer.weight": torch.zeros(64, 32)}, "untied")
    with pytest.raises(CheckpointError, match=r"final_layernorm\.weight: its shape is \(32,\) and \(16,\)"):
        against({**some, "module.decoder.final_layernorm.weight": torch.zeros(16)}, "shape")
    with pytest.raises(CheckpointError, match=r"its dtype is torch.float32 and torch.bfloat16"):
        against({name: value.bfloat16() for name, value in some.items()}, "dtype")
    assert not (tmp_path / "out").exists()


def test_components_of_another_base_are_refused_and_a_copied_run_is_not_one(models: dict, tmp_path: Path) -> None:
    def component(run: str, name: str, start: Path) -> Path:
        folder = tmp_path / run / "models/component" / name
        path = write_checkpoint(folder / "checkpoints/step_1", models[name])
        (folder / "record.json").write_text(json.dumps({"role": "component", "start": str(start)}))
        return path

    base = write_checkpoint(tmp_path / "base", models["base"])
    shutil.copytree(base, tmp_path / "copy")
    other_base = write_checkpoint(tmp_path / "other", models["base"], 2)
    mixtures = {"m": {"general": 0.5, "math": 0.5}}
    one, copied = component("one", "general", base), component("two", "math", tmp_path / "copy")
    run({"general": one, "math": copied}, None, tmp_path / "out", mixtures=mixtures)
    strange = component("three", "math", other_base)
    with pytest.raises(CheckpointError, match=r"general was trained from .*/base, math from .*/other: components"):
        run({"general": one, "math": strange}, None, tmp_path / "refused", mixtures=mixtures)


def test_memory_is_promised_before_anything_is_written(saved: dict, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"merge.memory_gib=0.1: one worker needs 0\.5"):
        run({n: saved[n, (1, 1)] for n in NAMES}, None, tmp_path / "out", options=MergeOptions(2, 0.1))
    assert not list((tmp_path / "out").iterdir())


def test_the_promised_memory_holds_the_places_of_many_chunks(saved: dict) -> None:
    """A model whose experts are saved one by one has tens of thousands of them."""
    plan = plan_of({n: saved[n, (1, 1)] for n in NAMES}, {"m": dict.fromkeys(NAMES, 1 / len(NAMES))})
    tracemalloc.start()
    chunks = tuple(Chunk((1000 + row, 0), (1, 512), f"__{row}_0.distcp", 1000 * row, 1024) for row in range(20_000))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    some = plan.tensors[0]
    many = replace(plan, tensors=(replace(some, chunks=(chunks,) * len(some.chunks)), *plan.tensors[1:]))
    more_gib = planned_memory_gib(many, 1) - planned_memory_gib(plan, 1)
    assert more_gib * 2**30 >= len(some.chunks) * held


FC1 = "module.decoder.layers.mlp.linear_fc1.weight"
FINAL = "module.decoder.final_layernorm.weight"


def test_weights_without_second_moments_are_averaged(models: dict, tmp_path: Path, caplog) -> None:
    """Such as a bias of a router, which no optimizer trains."""
    some = [name for name in SHAPES if name != FINAL]
    paths = {name: write_checkpoint(tmp_path / name, with_moments(models[name], some)) for name in NAMES}
    run(paths, None, tmp_path / "fisher", "fisher")
    run(paths, None, tmp_path / "linear", "linear")
    assert f"no second moments of 1 tensors ({FINAL}, ...): averaged as linear does" in caplog.text
    fisher, linear = (tensors_of(tmp_path / name / "mix_0") for name in ("fisher", "linear"))
    assert torch.allclose(fisher[FINAL], linear[FINAL], rtol=1e-6, atol=0)
    assert not torch.allclose(fisher[FC1], linear[FC1], rtol=1e-3, atol=0)


def test_a_one_hot_fisher_merge_is_the_component_and_the_moments_are_part_of_what_it_is(saved: dict, models, tmp_path):
    components = {name: shutil.copytree(saved[name, (1, 1)], tmp_path / name) for name in NAMES}
    report = run(components, None, tmp_path / "out", "fisher")
    assert report.bytes_read == 3 * 2 * 4 * sum(int(np.prod(shape)) for shape in SHAPES.values())
    one_hot = tensors_of(tmp_path / "out/mix_2")
    assert all(torch.equal(one_hot[name], models["code"][name]) for name in SHAPES)
    assert list(one_hot) == list(tensors_of(saved["base", (1, 1)])), "an output has no training state"
    assert verify(tmp_path / "out/mix_0", sample_tensors=100).num_tensors == len(SHAPES)
    assert run(components, None, tmp_path / "out", "fisher").done_before == tuple(MIXTURES)
    shutil.rmtree(components["math"])  # the same weights, after another training
    other = {**with_moments(models["math"]), MOMENTS + FC1: second_moments(models["code"][FC1])}
    write_checkpoint(components["math"], other)
    with pytest.raises(CheckpointError, match="was merged from other sources"):
        run(components, None, tmp_path / "out", "fisher")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda moments: {}, r"math: merge.method=fisher weighs .* holds none; train .*components.save_optimizer=true"),
        (
            lambda moments: {"optimizer.distributed.dp_group_idx_0.gbuf_idx_0.bucket_idx_0.exp_avg_sq": moments[FC1]},
            r"holds only those of a distributed optimizer's flat buffers; .*ckpt_optim_fully_reshardable=true",
        ),
        (lambda moments: {MOMENTS + FC1: moments[FC1]}, r"only .*/general.* has second moments of module\.decoder"),
        (
            lambda moments: {MOMENTS + name: value[..., :8].clone() for name, value in moments.items()},
            r"math: the second moments of \S+ are torch.float32 of shape .*8\), expected .* of shape \(.*32\)",
        ),
        (
            lambda moments: {MOMENTS + name: value.bfloat16() for name, value in moments.items()},
            r"math: the second moments of \S+ are torch.bfloat16 .* expected torch.float32",
        ),
        (
            lambda moments: {MOMENTS + name: -value for name, value in moments.items()},
            r"module\.\S+: found second moments below 0 in math; they are squares",
        ),
        (
            lambda moments: {MOMENTS + name: value * torch.nan for name, value in moments.items()},
            r"math: module\.\S+ has \d+ values that are NaN",
        ),
    ],
)
def test_second_moments_that_are_none_are_refused(change, message: str, models: dict, saved: dict, tmp_path: Path):
    moments = {name: second_moments(models["math"][name]) for name in SHAPES}
    math = write_checkpoint(tmp_path / "math", {**models["math"], **change(moments)})
    with pytest.raises(CheckpointError, match=message):
        run({n: saved[n, (1, 1)] for n in NAMES} | {"math": math}, None, tmp_path / "out", "fisher")
    assert not list((tmp_path / "out").glob("mix_*"))
    run({n: saved[n, (1, 1)] for n in NAMES} | {"math": math}, None, tmp_path / "linear")


def test_integers_beside_second_moments_are_taken_over(models: dict, tmp_path: Path) -> None:
    """Whose elements are smaller than those of the moments."""
    table = torch.arange(12, dtype=torch.int8)
    paths = {
        name: write_checkpoint(tmp_path / name, {**with_moments(models[name]), "module.table": table}) for name in NAMES
    }
    run(paths, None, tmp_path / "out", "fisher")
    assert torch.equal(tensors_of(tmp_path / "out/mix_0")["module.table"], table)
    other = {**with_moments(models["code"]), "module.table": table + 1}
    paths["code"] = write_checkpoint(tmp_path / "other", other)
    with pytest.raises(CheckpointError, match="integers are not averaged, and general and code differ"):
        run(paths, None, tmp_path / "refused", "fisher")


def test_second_moments_of_chained_optimizers_and_in_half_precision_are_found(models: dict, tmp_path: Path) -> None:
    found = {}
    for prefix, dtype in (("", torch.float32), ("chained_1.", torch.float32), ("", torch.bfloat16)):
        folder = tmp_path / f"{prefix}{dtype}"
        paths = {}
        for name in NAMES:
            tensors = with_moments(models[name])
            moments = {f"{prefix}{key}": tensors.pop(key).to(dtype) for key in list(tensors) if MOMENTS in key}
            paths[name] = write_checkpoint(folder / name, {**tensors, **moments}, 2)
        run(paths, None, folder / "out", "fisher")
        found[folder] = tensors_of(folder / "out/mix_0")
    first, *others = found.values()
    assert all(torch.equal(one[name], first[name]) for one in others[:1] for name in SHAPES)
    assert all(torch.allclose(others[1][name], first[name], rtol=1e-3, atol=1e-4) for name in SHAPES)


def test_weights_that_cannot_be_normalised_are_refused(saved: dict, tmp_path: Path) -> None:
    with pytest.raises(MixtureError, match="sum"):
        run({n: saved[n, (1, 1)] for n in NAMES}, None, tmp_path / "out", mixtures={"m": {"math": 1.0, "code": -1.0}})


def test_verify_finds_what_is_not_as_recorded(saved: dict, tmp_path: Path) -> None:
    run({name: saved[name, (2, 1)] for name in NAMES}, saved["base", (1, 1)], tmp_path / "out", "ties")
    found = verify(tmp_path / "out/mix_0", sample_tensors=100)
    assert found.num_tensors == len(SHAPES)
    assert found.num_elements > 1000
    assert found.not_compared is None
    record = tmp_path / "out/mix_0/merge.json"
    changed = json.loads(record.read_text())
    changed["weights"] = {"general": 0.21, "math": 0.49, "code": 0.3}
    record.write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match=r"the sources give"):
        verify(tmp_path / "out/mix_0", sample_tensors=100)
    shard = tmp_path / "out/mix_1/weights/__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"__0_0.distcp: its CRC-32 is \w+, expected \w+"):
        verify(tmp_path / "out/mix_1")
