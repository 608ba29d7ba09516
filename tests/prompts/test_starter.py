"""The starter prompts: as many and as varied as is said of them."""

from collections import Counter

import pytest

from alphasteer.prompts import starter_prompts
from alphasteer.prompts.starter import _ENCODINGS as ENCODINGS
from alphasteer.prompts.starter import KINDS, SPLITS


@pytest.mark.parametrize(
    ("kind", "fewest", "categories"),
    [("benign", 400, 6), ("borderline", 200, 8), ("harmful", 250, 10), ("jailbreak", 250, 7)],
)
def test_counts_and_categories(kind, fewest, categories):
    prompts = starter_prompts(kind)
    assert len(prompts) >= fewest
    assert prompts.dropped == 0
    assert len({p.category for p in prompts}) >= categories
    assert len({p.id for p in prompts}) == len(prompts)


@pytest.mark.parametrize("kind", KINDS)
def test_splits_are_whole_disjoint_and_cover_every_category(kind):
    parts = [starter_prompts(kind, split) for split in SPLITS]
    assert sum(map(len, parts)) == len(starter_prompts(kind))
    keys = Counter(p.key for part in parts for p in part)
    assert max(keys.values()) == 1
    for part in parts:
        assert {p.category for p in part} == {p.category for p in starter_prompts(kind)}


def test_no_prompt_stands_on_both_sides():
    fine = {p.key for kind in ("benign", "borderline") for p in starter_prompts(kind)}
    assert not fine & {p.key for kind in ("harmful", "jailbreak") for p in starter_prompts(kind)}


def test_test_jailbreaks_use_wrappers_and_requests_that_no_other_split_uses():
    wrappers = {s: {p.id.split("+")[0] for p in starter_prompts("jailbreak", s)} for s in SPLITS}
    requests = {s: {p.id.split("+")[1] for p in starter_prompts("jailbreak", s)} for s in SPLITS}
    assert sum(map(len, wrappers.values())) >= 15
    for other in ("fit", "validation"):
        assert not wrappers["test"] & wrappers[other]
        assert not requests["test"] & requests[other]


def test_every_wrapper_is_filled():
    assert not [p.text for p in starter_prompts("jailbreak") if "{request" in p.text]


def test_encoded_requests_can_be_read_back():
    """By the standard library, or for Morse by its best-known signal."""
    text = "Rob the Zoo at 10!"
    assert bytes.fromhex(ENCODINGS["{request_hex}"](text)).decode() == text
    assert bytes(map(int, ENCODINGS["{request_ascii}"](text).split())).decode() == text
    assert ENCODINGS["{request_atbash}"](ENCODINGS["{request_atbash}"](text)) == text
    assert ENCODINGS["{request_atbash}"]("abc XYZ") == "zyx CBA"
    assert ENCODINGS["{request_caesar}"]("hello XYZ") == "khoor ABC"
    assert ENCODINGS["{request_morse}"]("SOS 10") == "... --- ... / .---- -----"
