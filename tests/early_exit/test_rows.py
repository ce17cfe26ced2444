from unittest.mock import patch

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit.rows import Rows, stretches


def places_of(stretch) -> list[int]:
    places = stretch.places
    if isinstance(places, slice):
        return list(range(places.start, places.stop))
    return places.tolist()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=20))
def test_stretches_cover_the_members_in_order(numbers):
    found, next_member = [], 0
    for stretch in stretches(np.array(numbers), torch.device("cpu")):
        assert stretch.members.start == next_member
        next_member = stretch.members.stop
        assert isinstance(stretch.places, slice)
        found += [place for place in places_of(stretch) for _ in range(stretch.each)]
    assert next_member == len(numbers)
    assert found == numbers


@given(st.lists(st.integers(0, 6), min_size=1, max_size=20))
def test_other_devices_gather_what_does_not_lie_together(numbers):
    with patch("early_exit.rows.on_device", lambda indices, device: torch.from_numpy(indices)):
        parts = stretches(np.array(numbers), torch.device("cuda"))
    found = [place for part in parts for place in places_of(part) for _ in range(part.each)]
    assert found == numbers
    if len(set(numbers)) == len(numbers):
        assert len(parts) == 1


def test_rows_know_their_sources():
    rows = Rows(np.array([1, 2, 4]), np.array([0, 0, 0, 1, 2]), torch.device("cpu"))
    assert rows.sources.tolist() == [0, 2]
    assert [(stretch.members, stretch.places) for stretch in rows.token_stretches] == [
        (slice(0, 2), slice(1, 3)),
        (slice(2, 3), slice(4, 5)),
    ]
    assert [(part.places, part.each) for part in rows.source_stretches] == [
        (slice(0, 1), 2),
        (slice(2, 3), 1),
    ]
    assert rows.of(np.array([True, False, True])).places.tolist() == [1, 4]
