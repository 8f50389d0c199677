"""The name that was meant."""

import pytest

from recap.nearest import nearest


@pytest.mark.parametrize(
    ("name", "names", "hint"),
    [
        ("clik", ["click", "like"], "close: click"),
        ("training.sede", ["training.seed", "trainer.sede"], "close: training.seed"),
        ("rate", ["schedule.curve.rate", "seed"], "there is schedule.curve.rate, seed"),
        ("learning.rate", ["schedule.curve.rate", "seed"], "close: schedule.curve.rate"),
        ("xyz", ["click", "like"], "there is click, like"),
        ("xyz", [], "there is none"),
        ("xyz", [f"c{i}" for i in range(21)], "none of the 21 that there are is like it"),
    ],
)
def test_the_nearest_name_is_told_or_all_there_are(name: str, names: list[str], hint: str):
    assert nearest(name, names) == hint
