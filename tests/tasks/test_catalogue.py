"""Which definitions a name leads to: what the harness's own index would find, without reading all of it."""

from pathlib import Path
from typing import Any

import pytest

from nemo_demix.tasks import catalogue
from nemo_demix.tasks.environment import harness
from nemo_demix.tasks.stock import folders_with, members, stock_folder, stock_names


def write(path: Path, **definition: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key}: {value}\n" for key, value in definition.items()))


def led_to(manager: Any, name: str) -> dict[str, Any]:
    """What a name leads to: kind, file and definition of each; the tasks of a tag."""
    found: dict[str, Any] = {}
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in found and one in manager.task_index:
            entry = manager.task_index[one]
            found[one] = (entry.kind, entry.yaml_path, entry.cfg, entry.yaml_path is None and entry.tags)
            waiting += members(entry)
    return found


@pytest.mark.parametrize(
    ("name", "folder", "at_least"), [("piqa", "piqa", 1), ("ai2_arc", "arc", 3), ("mmlu", "mmlu", 60)]
)
def test_a_name_leads_to_what_the_index_of_the_harness_has(name: str, folder: str, at_least: int) -> None:
    from lm_eval.tasks import TaskManager

    with harness():
        found = led_to(catalogue.find("suite.tasks.x", name), name)
        assert found == led_to(TaskManager(include_defaults=False, include_path=[stock_folder() / folder]), name)
    assert len(found) >= at_least


def test_a_tag_has_its_tasks_of_every_folder() -> None:
    from lm_eval.tasks import TaskManager

    tag = "math_word_problems"
    paths = [path for path in stock_folder().glob("**/*.yaml") if tag in path.read_text(encoding="utf-8")]
    folders = {stock_folder() / path.relative_to(stock_folder()).parts[0] for path in paths}
    with harness():
        apart = [TaskManager(include_defaults=False, include_path=[folder]).task_index[tag].tags for folder in folders]
        assert catalogue.find("suite.tasks.x", tag).task_index[tag].tags == set().union(*apart)
    assert len(apart) > 1
    assert set().union(*apart) not in apart


def test_folders_do_not_take_each_other_s_tasks_of_a_tag(tmp_path: Path) -> None:
    """So a record's folders give what `prepare` found."""
    write(tmp_path / "one/a.yaml", task="a", tag="both")
    write(tmp_path / "two/b.yaml", task="b", tag="[both, mine]")
    index = catalogue.manager((tmp_path / "one", tmp_path / "two")).task_index
    assert (index["both"].tags, index["mine"].tags) == ({"a", "b"}, {"b"})


def test_a_group_of_the_user_s_may_name_what_others_define(tmp_path: Path) -> None:
    write(tmp_path / "mine/all.yaml", group="all", task="[mine, ai2_arc, demix_piqa, {group: inside, task: [piqa]}]")
    write(tmp_path / "mine/mine.yaml", task="mine")
    with harness():
        index = catalogue.find("suite.tasks.x", str(tmp_path / "mine/all.yaml")).task_index
    assert {"all", "mine", "ai2_arc", "arc_easy", "demix_piqa", "piqa"} <= set(index)
    assert "hellaswag" not in index


def test_names_are_read_where_they_are_written() -> None:
    assert {"piqa", "mmlu", "mmlu_stem", "ai2_arc", "hellaswag", "gsm8k"} <= set(stock_names())
    assert folders_with(["no_such_task"]) == ()
    assert stock_folder() / "piqa" in folders_with(["piqa"])
