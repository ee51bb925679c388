"""Every static rule, in one list; each key of the schema is held to a wrong value."""

import gzip
import json
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from omegaconf import OmegaConf

from nemo_demix.check import mistakes, warnings_of
from nemo_demix.config import DemixConfig, to_dataclasses
from nemo_demix.config.values import fitted, hints_of
from nemo_demix.errors import DemixError
from tests.check.wrong_values import WRONG
from tests.test_recipes import composed


def write_data(folder: Path) -> None:
    """Small files of every kind that the README's recipe reads."""
    for name in ("web", "math", "repositories"):
        (folder / "data" / name).mkdir(parents=True)
    rows = "".join(json.dumps({"text": f"Page {i} is about river number {i}. " * 5}) + "\n" for i in range(40))
    with gzip.open(folder / "data/web/a.jsonl.gz", "wt") as file:
        file.write(rows)
    (folder / "data/math/a.jsonl").write_text(rows.replace("river", "prime"))
    (folder / "data/repositories/a.py").write_text("def f(x):\n    return x + 1\n" * 40)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def base(data: Path) -> dict[str, Any]:
    """A configuration with something under every mapping of the schema, and nothing wrong."""
    config = composed("smoke", f"runs_dir={data / 'runs'}")
    content = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    assert isinstance(content, dict)
    source = {"path": str(data / "data/web/*.jsonl.gz")}
    content["datasets"] = {
        "general": {"capability": "general", "sources": [source]},
        "math_1": {"capability": "math", "sources": [{"path": str(data / "data/math/*.jsonl")}]},
        "code_1": {"capability": "code", "sources": [{"code": str(data / "data/repositories")}]},
    }
    content["suite"]["tasks"] = {"t": {"task": "demix_gsm8k", "capability": "math"}}
    content["suite"]["external"] = {
        "e": {
            "command": ["run", "{checkpoint}"],
            "scores": {"s": {"capability": "code", "unit": "u", "higher_is_better": True}},
        }
    }
    content["search"]["constraints"]["groups"] = {"g": {"datasets": ["math_1"]}}
    return content


def found(base: dict[str, Any], *changes: tuple[str, Any]) -> list[str]:
    """What is wrong where some keys have other values, as a recipe would give them."""
    errors: list[DemixError] = []
    config = changed(base, errors, *changes)
    return [str(error) for error in (*errors, *mistakes(config))]


def changed(base: dict[str, Any], errors: list[DemixError], *changes: tuple[str, Any]) -> DemixConfig:
    """The configuration with these values; what cannot be read of them joins the errors."""
    content = OmegaConf.create(base)
    for key, value in changes:
        nested = value
        for part in reversed(key.split(".")):
            nested = [nested] if part == "[0]" else {part: nested}
        content = OmegaConf.merge(content, fitted(nested, errors))
    return to_dataclasses(content)  # type: ignore[arg-type]


def test_the_base_of_these_tests_has_nothing_wrong(base: dict[str, Any]) -> None:
    assert found(base) == []


def test_a_method_that_weighs_by_second_moments_asks_for_components_that_keep_them(base: dict[str, Any]) -> None:
    (said,) = found(base, ("merge.method", "fisher"))
    assert said.startswith("merge.method=fisher: ")
    assert "components.save_optimizer=false does not keep them; set it to true before components are trained" in said
    assert found(base, ("merge.method", "fisher"), ("components.save_optimizer", True)) == []


def test_linear_merges_that_will_choose_are_told_of_before_components_are_trained(base: dict[str, Any]) -> None:
    def told(*changes: tuple[str, Any]) -> list[str]:
        ours = ("search.strategy", "recommended"), ("search.objective", "mean"), ("search.proxy", "auto")
        return warnings_of(changed(base, [], *ours, *changes))

    (said,) = told()
    assert "(suite.tasks.t, suite.external.e.scores.s cannot be had from mixed predictions)" in said
    assert "Set merge.method=fisher with components.save_optimizer=true, before they are trained" in said
    (said,) = told(("components.save_optimizer", True))
    assert said.endswith("Set merge.method=fisher")
    assert not told(("components.save_optimizer", True), ("merge.method", "fisher"))
    assert not told(("merge.method", "ties"))
    reported = [("suite.tasks.t.use", "report"), ("suite.external.e.scores.s.use", "report")]
    assert not told(*reported)
    (said,) = told(*reported, ("search.proxy", "merge"))
    assert "(search.proxy=merge)" in said
    assert not told(("search.strategy", "demix"), ("search.proxy", "merge"))  # a published one is taken as it is
    assert not told(("components.checkpoints", {name: "c" for name in base["datasets"]}))


def keys_of(section: Any = DemixConfig, key: str = "") -> list[str]:
    """Every key of the schema that holds a value; the user's own names stand as their type's."""
    names = []
    for name, kind in hints_of(section).items():
        here = f"{key}.{name}".lstrip(".")
        inner = get_args(kind)
        if is_dataclass(kind):
            names += keys_of(kind, here)
        elif get_origin(kind) is dict and is_dataclass(inner[1]):
            names += keys_of(inner[1], f"{here}.{{}}")
        elif get_origin(kind) is list and is_dataclass(inner[0]):
            names += keys_of(inner[0], f"{here}.[0]")
        else:
            names.append(here)
    return names


TOGETHER = 20
OWN_NAMES = ("datasets", "benchmarks", "tasks", "external", "scores", "groups")


def as_in_schema(key: str) -> str:
    """A key of `WRONG` with names of the user's own as the schema's `{}`."""
    parts = key.split(".")
    own = [parent in OWN_NAMES for parent in ("", *parts[:-2])] + [False]
    return ".".join("{}" if is_own else part for part, is_own in zip(parts, own[-len(parts) :], strict=True))


@pytest.mark.slow
def test_every_key_of_the_schema_has_a_wrong_value_that_is_refused_or_a_line_why_not(
    base: dict[str, Any], data: Path
) -> None:
    assert sorted(map(as_in_schema, WRONG)) == sorted(keys_of())
    cases = {}
    for key, entry in WRONG.items():
        if isinstance(entry, str) and " " in entry:
            continue
        value, name = entry if isinstance(entry, tuple) else (entry, key.replace(".[0]", "[0]"))
        where = key.rpartition(".")[0] if isinstance(entry, tuple) and isinstance(value, dict) else key
        cases[key] = where, json.loads(json.dumps(value).replace("DATA", str(data / "data"))), name
    # Several at a time, for all are to be told at once; alone where one hides another, as a kind hides its settings.
    hidden = []
    for start in range(0, len(cases), TOGETHER):
        some = dict(list(cases.items())[start : start + TOGETHER])
        errors = found(base, *((where, value) for where, value, _ in some.values()))
        hidden += [key for key, (_, _, name) in some.items() if not any(name in error for error in errors)]
    assert len(hidden) < len(cases) / 4
    passed = {}
    for key in hidden:
        where, value, name = cases[key]
        errors = found(base, (where, value))
        if not any(name in error for error in errors):
            passed[key] = value, errors
    assert passed == {}
