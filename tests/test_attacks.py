"""A part of the hostile inputs that benchmarks/attack.py tries, another part for each area: none does harm."""

from pathlib import Path

import pytest

from tests.hostile_inputs import Attack, all_attacks, attempt, good_checkpoint

EVERY = 40


def test_what_is_hostile_or_odd_is_refused_in_one_line_or_harmless(tmp_path: Path) -> None:
    attacks = list(all_attacks(good_checkpoint(tmp_path / "good")))
    assert len(attacks) > 1000
    ended = {}
    for number, attack in enumerate(attacks[::EVERY]):
        ended[attack.area, attack.name] = attempt(attack, tmp_path / str(number))
    assert {area for area, _ in ended} == {"checkpoint", "small file", "data", "scores", "names", "store"}
    assert {found[0] for found in ended.values()} == {"refused", "harmless"}, [
        (name, found) for name, found in ended.items() if found[0] not in ("refused", "harmless")
    ]


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (lambda folder: None, "harmless"),
        (lambda folder: {}[0], "trace"),
        (lambda folder: (folder / "ran").touch(), "wrong"),
        (lambda folder: bytearray(8 << 30), "trace"),
    ],
)
def test_what_an_attack_does_is_seen(tmp_path: Path, act, kind: str) -> None:
    assert attempt(Attack("none", "none", act), tmp_path / "a")[0] == kind
