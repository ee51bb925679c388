"""The contract that every merge method passes: the float64 oracle, bits that depend on nothing but the tensors,
degenerate input, and errors that say what to write."""

import itertools
import pickle
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from nemo_demix.config.parameters import parameters_of
from nemo_demix.errors import CheckpointError, ConfigError, MixtureError
from nemo_demix.merging.methods import METHODS, Block, LinearMethod, Method, Statistics, build_method
from nemo_demix.merging.methods.base import Array
from nemo_demix.merging.methods.randomness import uniforms
from nemo_demix.merging.statistics import collect
from tests.merging.oracles import ORACLES, second_moments

TENSOR, FIRST, SEED = "decoder.layers.weight", 1003, 7
NAMES = tuple("abcdefg")
# What each method is tried with beside its defaults.
PARAMETERS = {
    "linear": [{"normalize": False}],
    "task_arithmetic": [{"scale": 0.7}],
    "nuslerp": [{"task_vectors": True}],
    "slerp": [{"task_vectors": True}],
    "multislerp": [{"task_vectors": True}],
    "karcher": [{"task_vectors": True}],
    "ties": [{"density": 0.2, "scale": 1.5}, {"normalize": False}, {"density": 1.0}],
    "dare_linear": [{"density": 0.2, "scale": 1.5}],
    "dare_ties": [{"density": 0.5, "normalize": False}],
    "della_linear": [{"density": 0.3, "epsilon": 0.2, "scale": 1.5}],
    "della": [{"density": 0.5, "epsilon": 0.4, "normalize": False}, {"density": 1, "epsilon": 0}],
    "breadcrumbs": [{"density": 0.4, "gamma": 0.2, "scale": 1.5}],
    "breadcrumbs_ties": [{"density": 0.4, "gamma": 0.0, "normalize": False}],
    "sce": [{"select_topk": 0.3}],
    "fisher": [{"damping": 0.5}],
}
CASES = [(name, parameters) for name in METHODS for parameters in ({}, *PARAMETERS.get(name, []))]
every_method = pytest.mark.parametrize("name", list(METHODS))
every_case = pytest.mark.parametrize(("name", "parameters"), CASES)


def count(name: str, wanted: int = 4) -> int:
    return METHODS[name].num_components or wanted


def build(name: str, parameters: dict | None = None, num_components: int | None = None) -> Method:
    return build_method(name, parameters or {}, SEED, num_components or count(name), True)


def models(num_components: int, rows: int = 9, columns: int = 37, seed: int = 0) -> torch.Tensor:
    """Components that share a part of their task vectors, then the base: fp32, shape (K + 1, R, C)."""
    generator = np.random.default_rng(seed)
    base_RC, shared_RC = generator.normal(size=(2, rows, columns))
    own_KRC = generator.normal(size=(num_components, rows, columns))
    thetas_KRC = base_RC + 0.1 * shared_RC + 0.1 * own_KRC
    return torch.from_numpy(np.concatenate([thetas_KRC, base_RC[None]])).float()


def mixtures(num_components: int, number: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).dirichlet(np.ones(num_components), number)


def blocks(method: Method, sources_TRC: torch.Tensor, cuts: Sequence[int] = (), names=NAMES) -> Iterator[Block]:
    """The matrix cut before the given rows."""
    used_TRC = sources_TRC if method.uses_base else sources_TRC[:-1]
    if method.uses_moments:
        used_TRC = torch.cat([used_TRC, second_moments(sources_TRC[:-1])])
    _, num_rows, num_columns = used_TRC.shape
    bounds = sorted({0, *cuts, num_rows})
    for start, stop in itertools.pairwise(bounds):
        rows_TRC = used_TRC[:, start:stop].contiguous()
        yield Block(rows_TRC, tuple(names[: len(sources_TRC) - 1]), TENSOR, TENSOR, FIRST + start * num_columns)


def statistics_of(method: Method, sources_TRC: torch.Tensor, cuts: Sequence[int] = ()) -> Statistics:
    return collect(method, lambda: blocks(method, sources_TRC, cuts), sources_TRC[0].numel())


def merge_block(method: Method, block: Block, weights_MK: Array, statistics: Statistics) -> torch.Tensor:
    if not isinstance(method, LinearMethod):
        return method.mix(method.prepare(block, statistics), weights_MK, statistics)
    coefficients_MT = method.coefficients(weights_MK, statistics).tolist()
    return torch.stack([sum(c * s for c, s in zip(row, block.sources_TRC, strict=True)) for row in coefficients_MT])


def merge(method, sources_TRC, weights_MK, cuts=(), statistics=None, names=NAMES) -> torch.Tensor:
    statistics = statistics or statistics_of(method, sources_TRC)
    parts = [merge_block(method, b, weights_MK, statistics) for b in blocks(method, sources_TRC, cuts, names)]
    return torch.cat(parts, dim=1)


def same_bits(one: torch.Tensor, two: torch.Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.int32), two.contiguous().view(torch.int32))


def distance(merged: torch.Tensor, expected: np.ndarray | torch.Tensor) -> float:
    """Largest difference relative to the largest element."""
    expected = torch.as_tensor(expected).double()
    return float((merged.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


@every_case
@pytest.mark.parametrize(("rows", "columns"), [(9, 37), (1, 301), (40, 1), (1, 1)])
def test_agrees_with_the_float64_oracle(name, parameters, rows, columns):
    k = count(name)
    method, sources_TRC, weights_MK = build(name, parameters), models(k, rows, columns), mixtures(k, 3)
    if rows * columns == 1 and isinstance(method, LinearMethod):
        sources_TRC = sources_TRC.abs()  # opposite signs are opposite directions: another test's
        sources_TRC[-1] = 0
    thetas_KRC, base_RC = np.split(sources_TRC.double().numpy(), [k])
    uniform_KRC = np.stack([uniforms(SEED, n, TENSOR, FIRST, rows * columns).numpy() for n in NAMES[:k]])
    merged_MRC = merge(method, sources_TRC, weights_MK)
    for merged_RC, weights_K in zip(merged_MRC, weights_MK, strict=True):
        uniform = uniform_KRC.reshape(thetas_KRC.shape)
        with np.errstate(invalid="ignore"):
            expected_RC = ORACLES[name](thetas_KRC, base_RC[0], weights_K, parameters, uniform)
        if not np.isfinite(expected_RC).all():  # the oracle's arc between parallel vectors
            expected_RC = np.tensordot(weights_K, thetas_KRC, 1)
        assert distance(merged_RC, expected_RC) < 1e-6


@every_case
@pytest.mark.parametrize("cuts", [(1,), (4, 5), tuple(range(1, 9))])
def test_bits_do_not_depend_on_where_blocks_are_cut(name, parameters, cuts):
    k = count(name)
    method, sources_TRC, weights_MK = build(name, parameters), models(k), mixtures(k, 3)
    statistics = statistics_of(method, sources_TRC)
    whole_MRC = merge(method, sources_TRC, weights_MK, statistics=statistics)
    assert same_bits(whole_MRC, merge(method, sources_TRC, weights_MK, cuts, statistics))


@every_method
def test_bits_do_not_depend_on_the_order_of_blocks(name):
    k = count(name)
    method, sources_TRC, weights_MK = build(name), models(k), mixtures(k, 2)
    statistics = statistics_of(method, sources_TRC)
    cut = list(blocks(method, sources_TRC, (2, 3, 7)))
    backwards = [merge_block(method, block, weights_MK, statistics) for block in reversed(cut)]
    assert same_bits(torch.cat(backwards[::-1], dim=1), merge(method, sources_TRC, weights_MK, statistics=statistics))


@every_case
def test_bits_do_not_depend_on_the_other_mixtures(name, parameters):
    k = count(name)
    method, sources_TRC, weights_MK = build(name, parameters), models(k), mixtures(k, 16)
    statistics = statistics_of(method, sources_TRC)
    together_MRC = merge(method, sources_TRC, weights_MK, statistics=statistics)
    for row in (0, 7, 15):
        alone_1RC = merge(method, sources_TRC, weights_MK[row : row + 1], statistics=statistics)
        assert same_bits(together_MRC[row : row + 1], alone_1RC)


@every_method
def test_the_same_call_gives_the_same_bits(name):
    k = count(name)
    sources_TRC, weights_MK = models(k), mixtures(k, 2)
    kept_TRC, kept_MK = sources_TRC.clone(), weights_MK.copy()
    one = merge(build(name), sources_TRC, weights_MK)
    assert same_bits(one, merge(pickle.loads(pickle.dumps(build(name))), sources_TRC, weights_MK))
    assert same_bits(sources_TRC, kept_TRC)
    assert (weights_MK == kept_MK).all()


@every_case
def test_the_order_of_components_is_only_rounding(name, parameters):
    k = count(name)
    method, sources_TRC, weights_MK = build(name, parameters), models(k), mixtures(k, 3)
    order = np.random.default_rng(3).permutation(k)[::-1].copy()
    permuted_TRC = torch.cat([sources_TRC[:-1][order], sources_TRC[-1:]])
    names = [NAMES[index] for index in order]
    permuted_MRC = merge(method, permuted_TRC, weights_MK[:, order], names=names)
    assert distance(permuted_MRC, merge(method, sources_TRC, weights_MK)) < 1e-6


@every_method
def test_identical_components_give_that_component(name):
    k = count(name)
    parameters = {"density": 1, "epsilon": 0, "gamma": 0}
    parameters = {key: value for key, value in parameters.items() if key in parameters_of(METHODS[name])}
    sources_TRC = models(k)
    sources_TRC[:-1] = sources_TRC[0].clone()
    merged_MRC = merge(build(name, parameters), sources_TRC, mixtures(k, 4))
    assert distance(merged_MRC, sources_TRC[0].expand(4, -1, -1)) < 1e-6


@pytest.mark.parametrize("name", [name for name in METHODS if name != "model_stock"])  # that one draws to the base
def test_a_one_hot_mixture_gives_that_component(name):
    k = count(name)
    parameters = {"density": 1, "epsilon": 0, "gamma": 0}
    parameters = {key: value for key, value in parameters.items() if key in parameters_of(METHODS[name])}
    sources_TRC = models(k)
    assert distance(merge(build(name, parameters), sources_TRC, np.eye(k)), sources_TRC[:-1]) < 1e-6


def degenerate(k: int) -> dict[str, torch.Tensor]:
    usual = models(k)
    usual_but = {key: usual.clone() for key in ("is the base", "parallel", "opposite", "one is 0", "rows of 0", "tiny")}
    usual_but["is the base"][0] = usual[-1]
    usual_but["parallel"][1] = 2 * usual[0]
    usual_but["opposite"][1] = -usual[0]
    usual_but["one is 0"][0] = 0
    usual_but["rows of 0"][:, 3:6] = 0
    usual_but["tiny"] *= 1e-38
    rounded = (usual * 4).round() / 4  # massive ties, many zero differences
    opposite_deltas = usual.clone()
    opposite_deltas[1] = 2 * usual[-1] - usual[0]
    same = usual[-1:].expand_as(usual).clone()
    zero = torch.zeros_like(usual)
    return {**usual_but, "rounded": rounded, "opposite deltas": opposite_deltas, "all the base": same, "all 0": zero}


@every_case
@pytest.mark.parametrize("kind", list(degenerate(2)))
def test_degenerate_input_has_a_finite_result(name, parameters, kind):
    k = count(name)
    sources_TRC = degenerate(k)[kind]
    corner_K = np.eye(k)[0]
    weights_MK = np.stack([np.full(k, 1 / k), corner_K, np.roll(corner_K, 1), *mixtures(k, 2)])
    merged_MRC = merge(build(name, parameters), sources_TRC, weights_MK)
    assert torch.isfinite(merged_MRC).all()
    if kind in ("all the base", "all 0"):
        assert distance(merged_MRC, sources_TRC[-1].expand_as(merged_MRC)) < 1e-6


@every_method
def test_negative_weights_agree_with_the_oracle_are_finite_on_the_sphere_or_refused(name):
    k = count(name)
    sources_TRC, weights_K = models(k), np.array([1.5, *[-0.5 / (k - 1)] * (k - 1)])
    if name == "fisher":  # which divides, at each element, by a sum that could vanish
        with pytest.raises(MixtureError, match="row 0: expected weights >= 0"):
            merge(build(name), sources_TRC, weights_K[None])
        return
    merged_RC = merge(build(name), sources_TRC, weights_K[None])[0]
    assert torch.isfinite(merged_RC).all()
    if name not in ("multislerp", "karcher"):
        thetas_KRC, base_RC = np.split(sources_TRC.double().numpy(), [k])
        uniform_KRC = np.stack([uniforms(SEED, n, TENSOR, FIRST, 9 * 37).view(9, 37).numpy() for n in NAMES[:k]])
        assert distance(merged_RC, ORACLES[name](thetas_KRC, base_RC[0], weights_K, {}, uniform_KRC)) < 1e-6


@pytest.mark.parametrize("name", ["ties", "dare_ties", "della", "breadcrumbs_ties", "sce"])
def test_weights_of_zero_leave_the_base(name):
    sources_TRC = models(4)
    assert same_bits(merge(build(name), sources_TRC, np.zeros((1, 4)))[0], sources_TRC[-1])


@pytest.mark.parametrize("name", ["linear", "slerp", "nuslerp", "multislerp", "karcher", "model_stock"])
def test_weights_that_cannot_be_normalised_are_refused(name):
    k = count(name)
    weights_MK = np.array([np.full(k, 1 / k), [1.0, *[0.0] * (k - 2), -1.0]])
    with pytest.raises(MixtureError, match="row 1: expected a sum other than 0"):
        merge(build(name), models(k), weights_MK)


@every_method
def test_nan_stays_in_its_element_or_is_refused(name):
    k = count(name)
    method, sources_TRC, weights_MK = build(name), models(k), mixtures(k, 2)
    sources_TRC[0, 4, 5] = float("nan")
    if method.needs_gram or getattr(method, "needs_sums", False):
        with pytest.raises(CheckpointError, match=f"{TENSOR}: found NaN or infinity"):
            statistics_of(method, sources_TRC)
        return
    merged_MRC = merge(method, sources_TRC, weights_MK)
    assert torch.isnan(merged_MRC[:, 4, 5]).all()
    assert int(torch.isnan(merged_MRC).sum()) == 2


@pytest.mark.parametrize("name", ["ties", "della", "breadcrumbs_ties"])
def test_bits_do_not_depend_on_cuts_of_large_blocks_or_on_threads(name):
    method, sources_TRC, weights_MK = build(name, {}, 7), models(7, 301, 513), mixtures(7, 2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one_MRC = merge(method, sources_TRC, weights_MK, (1, 64, 190))
        torch.set_num_threads(2)
        assert same_bits(one_MRC, merge(method, sources_TRC, weights_MK))
    finally:
        torch.set_num_threads(threads)


def test_elections_follow_the_mixture():
    sources_TRC = torch.tensor([[[1.0]], [[-2.0]], [[0.0]]])
    method = build("ties", {"density": 1}, 2)
    assert merge(method, sources_TRC, np.array([[0.8, 0.2], [0.5, 0.5], [2 / 3, 1 / 3]])).flatten().tolist() == [
        1,
        -2,
        0,
    ]


def test_equal_magnitudes_are_kept_alike():
    sources_TRC = torch.tensor([[[1.0, -1.0, 1.0, 3.0]], [[1.0, 1.0, 1.0, 1.0]], [[0.0] * 4]])
    merged = merge(build("ties", {"density": 0.5}, 2), sources_TRC, np.array([[1.0, 0.0]]))
    assert merged.flatten().tolist() == [1, -1, 1, 3]


def test_the_karcher_mean_of_two_of_equal_length_is_their_slerp():
    sources_TRC = models(2)
    sources_TRC[1] *= sources_TRC[0].norm() / sources_TRC[1].norm()
    weights_MK = mixtures(2, 5)
    karcher_MRC = merge(build("karcher", {}, 2), sources_TRC, weights_MK)
    assert distance(karcher_MRC, merge(build("slerp", {}, 2), sources_TRC, weights_MK)) < 1e-6


@pytest.mark.parametrize(("name", "density"), [("dare_linear", 0.9), ("dare_linear", 0.1), ("della_linear", 0.5)])
def test_elements_are_kept_as_often_as_asked(name, density):
    sources_TRC = torch.zeros(3, 200, 500)
    sources_TRC[:-1] = 1 + torch.rand(2, 200, 500)
    method = build(name, {"density": density}, 2)
    block = next(blocks(method, sources_TRC))
    prepared_KRC = method.prepare(block, None)[:-1]
    number = prepared_KRC.numel()
    kept = int((prepared_KRC != 0).sum())
    assert abs(kept - density * number) < 4.5 * (number * density * (1 - density)) ** 0.5
    assert abs(float(prepared_KRC.double().mean() / sources_TRC[:-1].double().mean()) - 1) < 0.02


def test_della_keeps_the_larger_of_a_row_more_often():
    sources_TRC = torch.zeros(3, 4000, 8)
    sources_TRC[:-1] = torch.arange(1.0, 9.0)
    prepared_KRC = build("della_linear", {"density": 0.5, "epsilon": 0.4}, 2).prepare(
        Block(sources_TRC, ("a", "b"), TENSOR, TENSOR, 0), None
    )[:-1]
    rates_C = (prepared_KRC != 0).double().mean(dim=(0, 1)).numpy()
    assert abs(rates_C - np.linspace(0.1, 0.9, 8)).max() < 0.03


@every_method
def test_every_method_has_an_oracle_and_says_what_it_is(name):
    assert name in ORACLES
    assert METHODS[name].name == name
    assert "Source:" in METHODS[name].__doc__ or "mergekit" in METHODS[name].__doc__
    statistics = statistics_of(build(name), models(count(name)))
    gathered = (statistics.gram_KK, statistics.order_SQ, statistics.sums_S)
    assert build(name).needs_statistics == any(values is not None for values in gathered)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("tise", {}, r"merge.method: .*'tise'; did you mean ties"),
        ("ties", {"densty": 0.5}, r"merge.parameters.densty: .*did you mean density"),
        ("ties", {"seed": 1}, r"merge.parameters.seed: "),
        ("model_stock", {"t": 0.5}, r"merge.parameters.t: model_stock has no such parameter; expected no parameters"),
        ("ties", {"density": "0.5"}, r"merge.parameters.density: expected a number \(default 0.9\), found '0.5'"),
        ("ties", {"density": True}, r"merge.parameters.density: expected a number"),
        ("ties", {"normalize": 1}, r"merge.parameters.normalize: expected true or false"),
        ("karcher", {"max_iterations": 3.0}, r"merge.parameters.max_iterations: expected an integer"),
        ("karcher", {"max_iterations": -1}, r"merge.parameters.max_iterations: expected an integer >= 0, found -1"),
        ("karcher", {"tolerance": 0.0}, r"merge.parameters.tolerance"),
        ("ties", {"density": 0}, r"merge.parameters.density: expected 0 < value <= 1, found 0.0"),
        ("dare_ties", {"density": 1.1}, r"merge.parameters.density"),
        ("della", {"density": float("nan")}, r"merge.parameters.density"),
        ("della", {"epsilon": 0.2}, r"merge.parameters.epsilon: .*density \+ value <= 1"),
        ("della_linear", {"density": 0.1, "epsilon": 0.1}, r"merge.parameters.epsilon"),
        ("breadcrumbs", {"gamma": 0.2}, r"merge.parameters.gamma: expected 0 <= value <= 1 - density"),
        ("breadcrumbs_ties", {"gamma": -0.1}, r"merge.parameters.gamma"),
        ("sce", {"select_topk": 0}, r"merge.parameters.select_topk"),
        ("task_arithmetic", {"scale": float("inf")}, r"merge.parameters.scale: expected a finite number"),
        ("della", {"scale": float("nan")}, r"merge.parameters.scale"),
        ("fisher", {"damping": 0.0}, r"merge.parameters.damping: expected a number above 0, found 0.0"),
        ("fisher", {"damping": float("inf")}, r"merge.parameters.damping"),
    ],
)
def test_a_wrong_name_or_parameter_is_refused(name, parameters, message):
    with pytest.raises(ConfigError, match=message):
        build_method(name, parameters, 0, 4, True)


@every_method
def test_the_number_of_components_and_the_base_are_checked(name):
    fixed = METHODS[name].num_components
    for number in (1, 3) if fixed else (1,):
        with pytest.raises(ConfigError, match=r"merge\.components: .* found"):
            build_method(name, {}, 0, number, True)
    if build(name).uses_base:
        with pytest.raises(ConfigError, match=r"merge\.base"):
            build_method(name, {}, 0, 4, False)
    else:
        assert not build_method(name, {}, 0, count(name), False).uses_base
    if "task_vectors" in parameters_of(METHODS[name]):
        with pytest.raises(ConfigError, match=r"merge\.base"):
            build_method(name, {"task_vectors": True}, 0, count(name), False)
