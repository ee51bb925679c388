"""The algebra of mixtures: the paper's figures, properties, and what its errors say."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_demix.errors import DemixError, MixtureError
from nemo_demix.mixture import (
    BlendMatrix,
    check_rows,
    check_simplex,
    epochs,
    load_mixtures,
    token_proportional,
)

DATASETS = ("general", "math_1", "math_2", "math_3", "code_1", "code_2", "code_3")
PAPER_OPTIMUM = dict(zip(DATASETS, (0.218, 0.403, 0.002, 0.063, 0.044, 0.176, 0.094), strict=True))


def simplex(size: int) -> st.SearchStrategy[list[float]]:
    """Points of the simplex, corners and faces included."""
    counts = st.lists(st.integers(0, 1000), min_size=size, max_size=size).filter(any)
    return counts.map(lambda values: [value / sum(values) for value in values])


@st.composite
def blends(draw: st.DrawFn) -> BlendMatrix:
    """Blend matrices of any shape, from one component and one dataset on."""
    num_components, num_datasets = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    rows_CD = np.array([draw(simplex(num_datasets)) for _ in range(num_components)])
    names = tuple(f"c{index}" for index in range(num_components)), tuple(f"d{index}" for index in range(num_datasets))
    return BlendMatrix(*names, rows_CD)


def test_the_papers_optimum_is_the_released_corpus():
    shares = BlendMatrix.demix(DATASETS, "general", 0.5).data_shares(PAPER_OPTIMUM)
    percent = {
        capability: 100 * sum(share for name, share in shares.items() if name.startswith(capability))
        for capability in ("general", "math", "code")
    }
    assert percent == pytest.approx({"general": 60.9, "math": 23.4, "code": 15.7}, abs=0.05)


@given(weights=simplex(7), beta=st.floats(0, 0.99))
def test_demix_shares_follow_the_papers_formula(weights, beta):
    shares = BlendMatrix.demix(DATASETS, "general", beta).data_shares(dict(zip(DATASETS, weights, strict=True)))
    assert shares["general"] == pytest.approx(weights[0] + beta * (1 - weights[0]), abs=1e-12)
    for name, weight in zip(DATASETS[1:], weights[1:], strict=True):
        assert shares[name] == pytest.approx((1 - beta) * weight, abs=1e-12)


@given(blend=blends(), data=st.data())
def test_data_shares_sum_to_one(blend, data):
    weights = dict(zip(blend.components, data.draw(simplex(len(blend.components))), strict=True))
    assert sum(blend.data_shares(weights).values()) == pytest.approx(1, abs=1e-12)


@given(blend=blends())
def test_one_component_alone_has_its_own_blend(blend):
    for component, row_D in zip(blend.components, blend.rows_CD, strict=True):
        assert list(blend.data_shares({component: 1.0}).values()) == row_D.tolist()


@given(weights=simplex(7), beta=st.floats(0, 0.9))
def test_merge_weights_come_back_from_their_shares(weights, beta):
    blend = BlendMatrix.demix(DATASETS, "general", beta)
    merge_weights = dict(zip(DATASETS, weights, strict=True))
    found, distance = blend.merge_weights_for(blend.data_shares(merge_weights))
    assert found == pytest.approx(merge_weights, abs=1e-9)
    assert distance < 1e-9


@settings(max_examples=50)
@given(blend=blends(), data=st.data())
def test_no_other_merge_weights_are_nearer(blend, data):
    wanted_D = np.array(data.draw(simplex(len(blend.datasets))))
    found, distance = blend.merge_weights_for(dict(zip(blend.datasets, wanted_D.tolist(), strict=True)))
    reached_D = np.array(list(blend.data_shares(found).values()))
    assert distance == pytest.approx(np.abs(reached_D - wanted_D).sum(), abs=1e-12)
    others_MC = np.random.default_rng(0).dirichlet(np.full(len(blend.components), 0.5), size=500)
    others_M = np.linalg.norm(blend.data_shares_MD(others_MC) - wanted_D, axis=1)
    assert np.linalg.norm(reached_D - wanted_D) <= others_M.min() + 1e-9


def test_shares_below_beta_cannot_be_reached():
    blend = BlendMatrix.demix(("general", "math", "code"), "general", 0.5)
    found, distance = blend.merge_weights_for({"general": 0.2, "math": 0.4, "code": 0.4})
    assert found == pytest.approx({"general": 0.0, "math": 0.5, "code": 0.5}, abs=1e-12)
    assert distance == pytest.approx(0.6)


def test_blends_of_brought_components_are_rows():
    blend = BlendMatrix.from_blends({"a": {"x": 1.0}, "b": {"y": 0.25, "x": 0.75}}, ("x", "y"))
    assert blend.components == ("a", "b")
    assert blend.rows_CD.tolist() == [[1.0, 0.0], [0.75, 0.25]]
    assert blend.data_shares({"a": 0.5, "b": 0.5}) == {"x": 0.875, "y": 0.125}
    with pytest.raises(ValueError, match="read-only"):
        blend.rows_CD[0, 0] = 0.5


def test_check_simplex_fills_in_zeros_in_order():
    filled = check_simplex({"c": 0.25, "a": 0.75}, ("a", "b", "c"), "blend")
    assert list(filled.items()) == [("a", 0.75), ("b", 0.0), ("c", 0.25)]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"genera": 1.0}, "blend: unknown name 'genera'.*did you mean general"),
        ({"zzz": 1.0}, "blend: unknown name 'zzz'; expected some of .*math_1"),
        ({"general": 0.5}, "blend: expected shares that sum to 1, found 0.5"),
        ({}, "sum to 1, found 0"),
        ({"general": 1.5, "math_1": -0.5}, "blend: math_1: expected a finite share >= 0, found -0.5"),
        ({"general": float("nan")}, "general: expected a finite share >= 0, found nan"),
        ({"general": "1"}, "general: expected a number, found '1'"),
        ({"general": True}, "general: expected a number, found True"),
    ],
)
def test_what_is_no_mixture_is_refused(weights, message):
    with pytest.raises(MixtureError, match=message):
        check_simplex(weights, DATASETS, "blend")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlendMatrix.demix(DATASETS, "generl", 0.5), "components.general: unknown name 'generl'.*general"),
        (lambda: BlendMatrix.demix(DATASETS, "general", 1.0), "components.beta: expected 0 <= beta < 1, found 1.0"),
        (lambda: BlendMatrix(("a",), ("x", "y"), np.ones((1, 2))), "blend of component a: .* sum to 1, found 2"),
        (lambda: BlendMatrix(("a",), ("x", "y"), np.ones((2, 1))), r"expected shape \(1, 2\), found \(2, 1\)"),
        (lambda: BlendMatrix(("a", "a"), ("x",), np.ones((2, 1))), "expected distinct components"),
        (lambda: BlendMatrix.from_blends({}, ("x",)), "expected distinct components, at least one"),
        (lambda: BlendMatrix.from_blends({"a": {"z": 1.0}}, ("x",)), "blend of component a: unknown name 'z'"),
        (lambda: check_rows(np.array([[0.5, 0.5], [0.5, 0.6]]), 2), "row 1 is not on the simplex"),
        (lambda: check_rows(np.ones(2), 2), r"expected shape \(M, 2\), found \(2,\)"),
    ],
)
def test_what_is_no_blend_matrix_is_refused(make, message):
    with pytest.raises(MixtureError, match=message):
        make()


def test_epochs_are_repetitions_in_the_final_run():
    found = epochs({"general": 0.75, "math": 0.25, "code": 0.0}, 1000, {"general": 1500, "math": 50, "code": 0})
    assert found == {"general": 0.5, "math": 5.0, "code": 0.0}
    with pytest.raises(MixtureError, match=r"code has share 0\.5 and no training tokens"):
        epochs({"general": 0.5, "code": 0.5}, 1000, {"general": 1500})


def test_token_proportional_shares():
    assert token_proportional({"a": 300, "b": 100, "c": 0}) == {"a": 0.75, "b": 0.25, "c": 0.0}
    for counts in ({}, {"a": 0}, {"a": 2, "b": -1}):
        with pytest.raises(MixtureError, match="token counts: expected counts >= 0, not all 0"):
            token_proportional(counts)


def test_mixtures_files_have_the_authors_shape(tmp_path):
    path = tmp_path / "samples.json"
    path.write_text(json.dumps({"mix_0": {"general": 0.5, "math_1": 0.5}, "mix_1": {"code_1": 1}}))
    mixtures = load_mixtures(path, DATASETS)
    assert mixtures["mix_0"] == {**dict.fromkeys(DATASETS, 0.0), "general": 0.5, "math_1": 0.5}
    assert mixtures["mix_1"]["code_1"] == 1.0
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as Windows' editors begin a file
    assert load_mixtures(path, DATASETS) == mixtures


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"mix_0": {"general": 0.5}}', "samples.json: mix_0: expected shares that sum to 1, found 0.5"),
        ('{"mix_0": [0.5, 0.5]}', r'samples.json: expected \{"mix_0"'),
        ("[]", r'samples.json: expected \{"mix_0"'),
        ("{}", r'samples.json: expected \{"mix_0"'),
        ("{", "samples.json: expected JSON"),
        ('{"m": {"general": 1}, "m": {"math_1": 1}}', "samples.json: expected JSON, found: the key 'm' twice"),
        ('{"m": {"general": 1, "general": 0}}', "samples.json: expected JSON, found: the key 'general' twice"),
        ("m:\n  general: 1\n", "samples.json: expected JSON"),  # YAML
        ('{"general": 1}\n{"math_1": 1}\n', "samples.json: expected JSON, found: Extra data"),  # a mixture a line
    ],
)
def test_other_mixtures_files_are_refused(tmp_path, text, message):
    path = tmp_path / "samples.json"
    path.write_text(text)
    with pytest.raises(DemixError, match=message):
        load_mixtures(path, DATASETS)
