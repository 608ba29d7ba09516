"""The search for pushes: it learns, obeys what is given and its bound, is repeatable and goes on where it stopped."""

import time

import pytest

from alphasteer.errors import LearningError
from alphasteer.learning.push_search import PushSpace, different_windows, search_pushes
from alphasteer.reporting import LogReporter
from alphasteer.resuming import Journal

SPACE = PushSpace(("a", "b"), 6, 24, (0.6, 1.4))


def measure(push):
    """Best is rule b on layers 9 to 15 at strength 1; the divergence is the strength."""
    away = abs(push.first - 9) + abs(push.last - 15) + 5 * abs(push.strength - 1.0) + 4 * (push.rule == "a")
    return away / 4, push.strength


def slow(push):
    time.sleep(0.05)
    return measure(push)


def run(space=SPACE, by=measure, *, journal=None, **changes):
    options = {"trials": 40, "minutes": None, "most_divergence": 9.0, "seed": 0, **changes}
    return search_pushes(space, by, journal=journal or Journal(None), report=LogReporter(), **options)


def test_the_best_comes_first_and_is_better_than_what_chance_finds():
    found = run()
    assert [push.surprise for push in found] == sorted(push.surprise for push in found)
    assert found[0].surprise < min(push.surprise for push in run(trials=10))
    assert all(SPACE.lowest <= push.first <= push.last < SPACE.depth for push in found)
    assert all(0.6 <= push.strength <= 1.4 for push in found)


def test_what_diverges_beyond_the_bound_comes_last():
    found = run(most_divergence=0.9)
    within = [push.divergence <= 0.9 for push in found]
    assert within[0]
    assert within == sorted(within, reverse=True)


def test_a_given_window_and_strength_are_obeyed():
    found = run(PushSpace(("a",), 6, 24, (1.2, 1.2), (8, 11)))
    assert [(push.first, push.last, push.strength) for push in found] == [(8, 11, 1.2)], "and tried once"


def test_a_model_of_few_layers_has_windows_too():
    for push in run(PushSpace(("a",), 2, 3, (1.0, 1.0))):
        assert (push.first, push.last) == (2, 2)


def test_interrupted_anywhere_it_ends_where_it_would_have(tmp_path):
    whole, calls = run(), []

    def failing(push):
        calls.append(push)
        if len(calls) == 17:
            raise KeyboardInterrupt
        return measure(push)

    path = tmp_path / "pushes.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(by=failing, journal=Journal(path))
    assert run(by=failing, journal=Journal(path)) == whole
    assert len(calls) == len(whole) + 1, "what was known was not measured again"


def test_another_searchs_journal_is_refused(tmp_path):
    path = tmp_path / "pushes.jsonl"
    run(journal=Journal(path), trials=3)
    with pytest.raises(LearningError, match="another search's tries"):
        run(PushSpace(("a",), 2, 9, (1.0, 1.0)), journal=Journal(path), trials=3)


def test_no_try_begins_after_the_minutes_are_over():
    assert 1 <= len(run(by=slow, minutes=0.1 / 60)) <= 3


def test_a_search_that_ran_out_of_time_goes_no_further_when_begun_again(tmp_path):
    first = run(by=slow, minutes=0.1 / 60, journal=Journal(tmp_path / "pushes.jsonl"))
    assert run(by=slow, minutes=0.1 / 60, journal=Journal(tmp_path / "pushes.jsonl")) == first


def test_windows_are_those_of_the_best_pushes_each_once():
    found = run()
    windows = different_windows(found, 3)
    assert windows[0] == (found[0].first, found[0].last)
    assert len(set(windows)) == 3
