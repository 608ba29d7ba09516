"""Batches by token budget."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from alphasteer.prompts import batches_by_tokens, by_beginning, common_prefix_length, pad

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


TOKENS = st.lists(st.integers(1, 3), max_size=6)
IN_CHATS = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.integers(1, 3), min_size=1, max_size=6)), min_size=1, max_size=60
)


@given(st.lists(TOKENS, min_size=4, max_size=4), IN_CHATS, st.integers(1, 60), st.integers(1, 9))
def test_groups_hold_every_sequence_once_and_share_what_they_say(heads, chats, times, fewest):
    sequences = [[0, *heads[chat] * times, *words] for chat, words in chats]
    groups = by_beginning(sequences, fewest)
    assert sorted(i for _, rows in groups for i in rows) == list(range(len(sequences)))
    for shared, rows in groups:
        assert all(sequences[i][:shared] == sequences[rows[0]][:shared] for i in rows)
        assert shared < min(len(sequences[i]) for i in rows)
    # Never more tokens to run than if all shared what all begin with.
    whole = common_prefix_length(sequences) if len(sequences) > 1 else 0
    left = sum(shared + sum(len(sequences[i]) - shared for i in rows) for shared, rows in groups)
    assert left <= whole + sum(len(sequence) - whole for sequence in sequences)


def test_prompts_in_one_chat_share_it_whole_and_stray_ones_stay_together():
    heads = {"a": [1] * 50, "b": [1] * 20 + [2] * 40}
    rows = [[*heads[name], 7, number] for number in range(40) for name in "ab"]
    strays = [[1, number, 9] for number in range(3, 6)]
    groups = {tuple(rows): shared for shared, rows in by_beginning([*rows, *strays])}
    assert groups == {tuple(range(0, 80, 2)): 51, tuple(range(1, 80, 2)): 61, (80, 81, 82): 1}
    assert by_beginning([]) == []
    assert by_beginning([[1, 2, 3]]) == [(0, [0])]
