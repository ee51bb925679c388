"""What Hydra's grammar refuses is told with the character at fault, and what is then advised works."""

import re
import shlex

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from nemo_demix.config.grammar import fault, parsed
from nemo_demix.config.overrides import read_overrides
from nemo_demix.errors import ConfigError, DemixError
from tests.test_recipes import composed

CHECKPOINT = "/x/model--val_loss=2.3-step=100-consumed_samples=800.0"
REFUSED = {  # the place of the first character that is not taken, and the value that is meant
    f"base.checkpoint={CHECKPOINT}": (34, CHECKPOINT),
    "name=a b(c": (8, "a b(c"),
    "name=naïve": (7, "naïve"),
    "name=it's=1": (7, "it's=1"),
    'name=a"b\\': (6, 'a"b\\'),
    "datasets.web.sources=[{path:/a=b},{path:/c}]": (30, [{"path": "/a=b"}, {"path": "/c"}]),
    "datasets.a b.capability=math": (10, "math"),
    "datasets.mäth.capability=math": (10, "math"),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_a_refusal_advises_is_what_was_meant(text: str) -> None:
    place, meant = REFUSED[text]
    assert fault(text) == place
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    message = str(caught.value)
    assert f"the character {text[place]!r} (number {place + 1})" in message
    key = text.partition("=")[0]
    if place > len(key):
        (override,) = shlex.split(re.search(r"write (.*), or in the recipe", message)[1])  # type: ignore[index]
        read = OverridesParser.create().parse_override(override)
        assert (read.key_or_group, read.value()) == (key, meant)
    found = yaml.safe_load(re.search(r"in the recipe: `(.*)`$", message)[1])  # type: ignore[index]
    for part in key.split("."):
        found = found[part]
    assert found == meant


@pytest.mark.parametrize("text", ["search.iterations=[1,2", "name='a", "name={a"])
def test_what_is_not_closed_is_said(text: str) -> None:
    with pytest.raises(ConfigError, match="close its brackets and quotes"):
        parsed(text)


@pytest.mark.parametrize(
    "text",
    [
        "+search.constraints.groups.mc={datasets:[math_1,code_1],max:0.5}",
        "search.constraints.groups={mc:{datasets:[math_1,code_1],max:0.5}}",
    ],
)
def test_an_entry_of_the_users_own_name_can_be_added(text: str) -> None:
    errors: list[DemixError] = []
    group = composed("smoke", *read_overrides([text], errors)[0]).search.constraints.groups["mc"]
    assert (group.datasets, group.max, errors) == (["math_1", "code_1"], 0.5, [])


def test_a_limit_by_dataset_needs_no_plus_and_an_added_dataset_leaves_the_others() -> None:
    texts = ["search.constraints.max.math_1=0.3", "+datasets.mine.capability=math", "datasets.math_1.max_bytes=2k"]
    errors: list[DemixError] = []
    config = composed("smoke", *read_overrides(texts, errors)[0])
    assert config.search.constraints.max == {"math_1": 0.3}
    assert config.datasets["mine"].capability == "math"
    assert len(config.datasets) == 8
    assert config.datasets["math_1"].max_bytes == 2000
    assert not errors
