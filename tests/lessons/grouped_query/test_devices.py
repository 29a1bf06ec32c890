"""Devices share out query heads, and each keeps what these read; the counts are those of the cache's arithmetic."""

import pytest

from attncourse.kv_cache import cost
from attncourse.lessons.grouped_query.devices import Part, parts_of, stored


def test_each_device_keeps_what_its_query_heads_read():
    assert parts_of([0, 0, 0, 1, 1, 1], 3) == [Part((0, 1), (0,)), Part((2, 3), (0, 1)), Part((4, 5), (1,))]
    assert stored(parts_of([0, 0, 0, 1, 1, 1], 3)) == 2


@pytest.mark.parametrize("g", [1, 2, 4, 8])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_copies_are_those_of_the_calculator(g, devices):
    sizes = dict(num_hidden_layers=1, num_attention_heads=8, head_dim=4, num_key_value_heads=g)
    reads = [i // (8 // g) for i in range(8)]
    assert stored(parts_of(reads, devices)) == cost(sizes, context=1, tensor_parallel=devices).copies


def test_heads_that_cannot_be_shared_out_are_refused():
    with pytest.raises(ValueError, match="devices must divide the 6 query heads, got 4"):
        parts_of([0] * 6, 4)
