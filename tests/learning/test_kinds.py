"""Kinds of prompts by k-means: found without labels, whatever the prompts' order and scale."""

import torch

from alphasteer.learning.kinds import FEWEST, kinds, two_kinds


def sources(count=50):
    generator = torch.Generator().manual_seed(0)
    rows = 0.3 * torch.randn(2 * count, 8, generator=generator)
    rows[:count, 0] += 1
    rows[count:, 1] += 1
    return {"mixed": rows[count // 2 : -count // 2], "one": rows[: count // 2], "other": rows[-count // 2 :]}


def test_what_lies_apart_is_told_apart_across_sources():
    found = kinds(sources(), 2)
    assert {name: len(labels) for name, labels in found.items()} == {"mixed": 50, "one": 25, "other": 25}
    assert found["one"].unique().numel() == found["other"].unique().numel() == 1
    assert found["one"][0] != found["other"][0]
    assert torch.equal(found["mixed"], torch.cat([found["one"], found["other"]]))


def test_neither_the_order_nor_the_scale_of_activations_matters():
    given = sources()
    same = kinds(given, 3)
    changed = kinds({name: 7 * rows.flip(0) for name, rows in given.items()}, 3)
    assert all(torch.equal(changed[name].flip(0), same[name]) for name in given)


def test_a_kind_too_small_for_a_read_out_of_its_own_stays_with_the_other():
    few = {name: rows[: len(rows) * (FEWEST - 10) // 50] for name, rows in sources().items()}
    (whole,) = two_kinds(few)
    assert all(bool(mask.all()) for mask in whole.values())
    both = two_kinds(sources())
    assert len(both) == 2
    assert all(bool((both[0][name] ^ both[1][name]).all()) for name in both[0])


def test_more_kinds_than_prompts_are_no_hindrance():
    assert len(kinds({"s": torch.eye(3)}, 5)["s"].unique()) == 3
