"""Sets of prompts: samples and splits that hold still."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphasteer.errors import PromptError
from alphasteer.prompts import PromptSet, union, without_shared

TEXTS = st.lists(st.text("abcdef", min_size=1, max_size=6), min_size=1, max_size=60, unique=True)


@given(TEXTS, st.floats(0.05, 0.95), st.integers(0, 5))
def test_a_split_is_whole_disjoint_and_does_not_move_when_prompts_are_added(texts, share, seed):
    small, large = PromptSet.of(texts), PromptSet.of([*texts, "another one", "and one more"])
    rest, held = small.split(share, seed)
    assert {p.text for p in rest} | {p.text for p in held} == set(texts)
    assert not {p.text for p in rest} & {p.text for p in held}
    assert {p.text for p in held} <= {p.text for p in large.split(share, seed)[1]}


@given(TEXTS, st.integers(1, 70), st.integers(0, 3))
def test_a_sample_is_drawn_once_for_all_in_source_order(texts, count, seed):
    prompts = PromptSet.of(texts)
    chosen = [p.text for p in prompts.limit(count, seed)]
    assert chosen == [p.text for p in prompts.limit(count, seed)]
    assert len(chosen) == min(count, len(texts))
    assert chosen == [text for text in texts if text in chosen]


@given(TEXTS)
def test_the_digest_is_of_the_prompts_not_of_their_order(texts):
    assert PromptSet.of(texts).digest == PromptSet.of(texts[::-1]).digest
    assert PromptSet.of(texts).digest != PromptSet.of([*texts, "another one"]).digest


def test_what_stands_on_both_sides_is_taken_out_of_both():
    benign, harmful, shared = without_shared(
        [PromptSet.of(["a", "b  c"]), PromptSet.of(["d"])], [PromptSet.of(["b c", "e"])]
    )
    assert shared == 1
    assert [[p.text for p in s] for s in benign] == [["a"], ["d"]]
    assert [[p.text for p in s] for s in harmful] == [["e"]]


def test_a_union_keeps_ids_apart_and_drops_repeats():
    whole = union([PromptSet.of(["a", "b"], "x"), PromptSet.of(["b", "c"], "y")], "both")
    assert [p.text for p in whole] == ["a", "b", "c"]
    assert len({p.id for p in whole}) == 3


def test_nothing_is_no_set():
    with pytest.raises(PromptError, match="no prompts"):
        PromptSet.of([])
