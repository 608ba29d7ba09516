"""Batches by token budget."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from alphasteer.prompts import batches_by_tokens, common_prefix_length, pad

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 200), st.one_of(st.none(), st.integers(1, 9)))
def test_every_prompt_once_and_no_batch_over_its_budget(lengths, budget, rows):
    batches = list(batches_by_tokens(lengths, budget, rows))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
        assert rows is None or len(batch) <= rows


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=8), min_size=1, max_size=6),
    st.sampled_from(["left", "right"]),
)
def test_padding_keeps_every_token_on_its_side(sequences, side):
    ids, mask = pad(sequences, side, fill=0)
    for row, sequence in enumerate(sequences):
        assert ids[row][mask[row].bool()].tolist() == sequence
        edge = mask[row, -1] if side == "left" else mask[row, 0]
        assert edge == 1
    assert torch.equal(mask.sum(1), torch.tensor([len(s) for s in sequences]))


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=8), min_size=1, max_size=6))
def test_the_common_prefix_is_the_longest_that_leaves_everyone_a_token(sequences):
    n = common_prefix_length(sequences)
    assert all(s[:n] == sequences[0][:n] for s in sequences)
    assert n < min(map(len, sequences))
    longer = n + 1 < min(map(len, sequences)) and len({s[n] for s in sequences}) == 1
    assert not longer
