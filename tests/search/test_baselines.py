"""UniMax, against its definition; the user's own shares, and those of another run."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_demix.config import DemixConfig, SearchConfig
from nemo_demix.errors import ConfigError, DemixError, MixtureError
from nemo_demix.search.baselines import heuristic_shares, unimax_shares
from nemo_demix.search.space import search_settings


def test_small_datasets_are_taken_whole_and_the_rest_is_uniform():
    shares = unimax_shares({"large": 1000, "small": 10, "middle": 60}, num_tokens=600, max_epochs=4)
    assert shares == pytest.approx({"large": 320 / 600, "small": 40 / 600, "middle": 240 / 600})
    assert list(shares) == ["large", "small", "middle"]


def test_with_tokens_to_spare_it_is_equal_and_without_it_is_proportional():
    tokens = {"a": 300, "b": 100}
    assert unimax_shares(tokens, num_tokens=100, max_epochs=1) == pytest.approx({"a": 0.5, "b": 0.5})
    assert unimax_shares(tokens, num_tokens=10_000, max_epochs=4) == pytest.approx({"a": 0.75, "b": 0.25})


@given(
    sizes=st.lists(st.integers(1, 10_000), min_size=1, max_size=8),
    budget=st.integers(1, 50_000),
    limit=st.floats(0.5, 8),
)
def test_no_dataset_is_over_its_epochs_and_what_is_below_them_is_equal(sizes, budget, limit):
    tokens = {str(index): size for index, size in enumerate(sizes)}
    shares = unimax_shares(tokens, budget, limit)
    assert sum(shares.values()) == pytest.approx(1)
    if budget > limit * sum(sizes):
        assert shares == pytest.approx({name: size / sum(sizes) for name, size in tokens.items()})
        return
    assert all(shares[name] * budget <= limit * size * (1 + 1e-9) for name, size in tokens.items())
    free = [share for name, share in shares.items() if share * budget < limit * tokens[name] * (1 - 1e-9)]
    assert free == pytest.approx([max(shares.values())] * len(free))


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"search.unimax_epochs=0: expected a number of epochs above 0"):
        unimax_shares({"a": 1}, 10, 0)
    with pytest.raises(MixtureError, match=r"expected counts >= 0, not all 0"):
        unimax_shares({"a": 0}, 10, 1)


def taking(path: Path, **search: object) -> DemixConfig:
    return DemixConfig(name="try", search=SearchConfig(heuristic_from=str(path), **search))  # type: ignore[arg-type]


def mixture(path: Path, shares: dict[str, float], passed: bool = True) -> Path:
    gates = [{"name": "max_delta", "passed": passed, "reason": "0.2 is above 0.15"}]
    path.write_text(json.dumps({"data_shares": shares, "trust": {"gates": gates}}))
    return path


def test_the_mixture_of_another_run_is_taken_as_it_is(tmp_path):
    config = taking(mixture(tmp_path / "mixture.json", {"code": 0.25, "general": 0.75}))
    assert heuristic_shares(config, ["general", "math", "code"]) == {"general": 0.75, "math": 0.0, "code": 0.25}


def test_what_the_other_run_chose_decides_and_not_where_it_is(tmp_path):
    here = taking(mixture(tmp_path / "here.json", {"general": 1.0}))
    there = taking(mixture(tmp_path / "there.json", {"general": 1.0}))
    assert search_settings(here) == search_settings(there)
    other = taking(mixture(tmp_path / "other.json", {"general": 0.5, "code": 0.5}))
    assert search_settings(here) != search_settings(other)


def test_a_mixture_that_failed_its_gates_is_taken_only_if_asked_for(tmp_path):
    config = taking(mixture(tmp_path / "mixture.json", {"general": 1.0}, passed=False))
    with pytest.raises(ConfigError, match=r"failed the trust gates max_delta; set accept_untrusted=true"):
        heuristic_shares(config, ["general"])
    config.accept_untrusted = True
    assert heuristic_shares(config, ["general"]) == {"general": 1.0}


def test_a_file_that_is_no_mixture_is_refused_with_its_key(tmp_path):
    with pytest.raises(
        ConfigError, match=r"search.heuristic_from=.*gone.json: no such file; expected the search/mixture"
    ):
        heuristic_shares(taking(tmp_path / "gone.json"), ["general"])
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"list.json: has no data_shares"):
        heuristic_shares(taking(tmp_path / "list.json"), ["general"])
    (tmp_path / "half.json").write_text('{"data_shares"')
    with pytest.raises(DemixError, match=r"half.json: expected JSON"):
        heuristic_shares(taking(tmp_path / "half.json"), ["general"])
    path = mixture(tmp_path / "mixture.json", {"web": 1.0})
    with pytest.raises(MixtureError, match=r"search.heuristic_from: .*web"):
        heuristic_shares(taking(path), ["general"])
    with pytest.raises(ConfigError, match=r"search.heuristic is set too"):
        heuristic_shares(taking(path, heuristic={"general": 1.0}), ["general"])
