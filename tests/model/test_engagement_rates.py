"""Engagement rates: counted once, read without the example's own day."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from recap.batch import Bag, Batch
from recap.model.engagement_rates import EngagementRates
from recap.model.norm import BatchNorm
from recap.schema import Schema, Sparse

SCHEMA = Schema(
    labels={"like": "l"},
    sparse={
        "user": Sparse(column="user", vocabulary=3),
        "tag": Sparse(column="tag", vocabulary=3),
        "day": Sparse(column="day", vocabulary=[1, 2]),
    },
)


def bag(rows: list[list[int]]) -> Bag:
    ends = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return Bag(torch.tensor([slot for row in rows for slot in row], dtype=torch.int64), ends)


def batch(users: list[int], days: list[int], likes: list[int], tags=None) -> Batch:
    """Users and days are slots: 0 is out of vocabulary."""
    return Batch(
        dense={},
        sparse={
            "user": bag([[user] for user in users]),
            "day": bag([[day] for day in days]),
            "tag": bag(tags or [[] for _ in users]),
        },
        tasks=("like",),
        labels=torch.tensor(likes, dtype=torch.float32).unsqueeze(1),
    )


# user 1: four examples on day 1, two of them liked, and one on day 2; user 2: one on day 1
SEEN = batch([1, 1, 1, 1, 1, 2], days=[1, 1, 1, 1, 2, 1], likes=[1, 0, 1, 0, 1, 0])


def observed(**settings) -> EngagementRates:
    layer = EngagementRates(SCHEMA, **{"keys": ["user"], "fold": "day", **settings})
    layer.observe(SEEN)
    return layer


def log_odds(positives: float, examples: float, prior: float = 50.0) -> float:
    overall = 3.5 / 7.0  # three of six, and half an example of each kind
    rate = (positives + prior * overall) / (examples + prior)
    return math.log(rate / (1 - rate)) - math.log(overall / (1 - overall))


def test_a_later_day_reads_all_counts():
    read = observed()(batch([1, 2], days=[0, 0], likes=[0, 0]))
    expected = [[log_odds(3, 5), math.log1p(5)], [log_odds(0, 1), math.log1p(1)]]
    torch.testing.assert_close(read, torch.tensor(expected))


def test_an_example_does_not_read_its_own_day():
    read = observed()(batch([1, 1], days=[1, 2], likes=[0, 0]))
    expected = [[log_odds(1, 1), math.log1p(1)], [log_odds(2, 4), math.log1p(4)]]
    torch.testing.assert_close(read, torch.tensor(expected))


def test_labels_of_an_examples_own_day_cannot_be_told_from_what_it_reads():
    turned = EngagementRates(SCHEMA, keys=["user"], fold="day")
    turned.observe(batch([1, 1, 1, 1, 1, 2], [1, 1, 1, 1, 2, 1], likes=[0, 1, 0, 1, 1, 0]))
    today = batch([1, 1], days=[1, 1], likes=[1, 0])
    assert torch.equal(observed()(today), turned(today))


def test_an_id_that_was_never_seen_reads_zeros():
    assert observed()(batch([3, 0], days=[0, 1], likes=[1, 1])).tolist() == [[0, 0], [0, 0]]


def test_several_ids_read_their_mean_and_none_reads_zeros():
    layer = EngagementRates(SCHEMA, keys=["tag"], fold="day")
    layer.observe(batch([1, 1], days=[1, 1], likes=[1, 0], tags=[[1, 2], [2]]))
    read = layer(batch([1] * 4, [0] * 4, [0] * 4, tags=[[1], [2], [1, 2], []]))
    torch.testing.assert_close(read[2], (read[0] + read[1]) / 2)
    assert read[3].tolist() == [0, 0]


def test_that_every_row_has_one_id_changes_nothing():
    known = replace(
        SEEN, sparse={name: replace(b, one_each=name != "tag") for name, b in SEEN.sparse.items()}
    )
    assert torch.equal(observed()(known), observed()(SEEN))
    layer = EngagementRates(SCHEMA, keys=["user"], fold="day")
    layer.observe(known)
    assert all(map(torch.equal, layer.counted(), observed().counted()))


def test_the_output_is_clipped_and_may_be_batch_normed():
    assert observed(clip_magnitude=1.0)(SEEN).abs().max() == 1.0
    layer = observed(batch_norm_config=BatchNorm(momentum=0.1))
    torch.testing.assert_close(layer.train()(SEEN).mean(0), torch.zeros(2), atol=1e-6, rtol=0)


def test_the_counts_are_part_of_the_state_dict():
    other = EngagementRates(SCHEMA, keys=["user"], fold="day")
    other.load_state_dict(observed().state_dict())
    assert torch.equal(other(SEEN), observed()(SEEN))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keys": []}, r"keys=\[\] must name at least one sparse input"),
        ({"keys": ["usr"]}, "usr is no sparse input; there is user, tag, day"),
        ({"fold": "hour"}, "hour is no sparse input"),
        ({"tasks": ["click"]}, "task click has no label"),
        ({"prior_strength": 0.0}, "prior_strength=0.0 must be above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EngagementRates(SCHEMA, **{"keys": ["user"], "fold": "day", **settings})
