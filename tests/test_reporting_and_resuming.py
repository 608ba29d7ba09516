"""Following long steps, and picking them up again."""

import pytest
import torch

from alphasteer.cli.console import ConsoleReporter
from alphasteer.errors import AlphaSteerError
from alphasteer.reporting import LogReporter
from alphasteer.resuming import Shelf, digest


def test_reporters_yield_every_item_once():
    for reporter in (LogReporter(), ConsoleReporter(quiet=True)):
        assert list(reporter.track(((c, 2) for c in "abc"), "letters", 6)) == ["a", "b", "c"]


def test_a_shelf_computes_once_for_each_identity(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"x": torch.arange(3.0)}

    for _ in range(2):
        assert torch.equal(Shelf(tmp_path).tensors("t", [1, "a"], compute)["x"], torch.arange(3.0))
    Shelf(tmp_path).tensors("t", [1, "b"], compute)
    assert len(calls) == 2
    Shelf().tensors("t", [1, "a"], compute)
    assert len(calls) == 3, "without a folder nothing is kept"


def test_a_damaged_file_on_the_shelf_is_made_again(tmp_path):
    def compute():
        return {"x": torch.ones(2)}

    Shelf(tmp_path).tensors("t", 1, compute)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"half")
    assert torch.equal(Shelf(tmp_path).tensors("t", 1, compute)["x"], torch.ones(2))


def test_a_journal_keeps_lines_and_drops_a_torn_one(tmp_path):
    journal = Shelf(tmp_path).journal("j", 1)
    journal.add({0: "é", 1: [1, "two\n"]})
    with journal.path.open("a") as file:
        file.write('[2, "cut o')
    again = Shelf(tmp_path).journal("j", 1)
    assert again.entries == {0: "é", 1: [1, "two\n"]}
    again.add({2: "whole"})
    assert Shelf(tmp_path).journal("j", 1).entries[2] == "whole"
    assert Shelf(tmp_path).journal("j", 2).entries == {}


def test_digests_tell_values_apart():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest([1, 2]) != digest([2, 1])


def test_a_journal_holds_any_text_line_separators_too(tmp_path):
    texts = {0: "one\u2028two", 1: "next\u0085line", 2: "para\u2029graph\r\n", 3: ""}
    Shelf(tmp_path).journal("replies", [1]).add(texts)
    assert Shelf(tmp_path).journal("replies", [1]).entries == texts


def test_a_journal_damaged_in_the_middle_is_named(tmp_path):
    shelf = Shelf(tmp_path)
    shelf.journal("replies", [1]).add({0: "a", 1: "b"})
    (path,) = tmp_path.iterdir()
    path.write_text("[0, broken\n" + path.read_text())
    with pytest.raises(AlphaSteerError, match="is damaged"):
        shelf.journal("replies", [1])


def test_a_journal_torn_within_a_letter_goes_on(tmp_path):
    journal = Shelf(tmp_path).journal("j", 1)
    journal.add({0: "né"})
    with journal.path.open("ab") as file:
        file.write('[1, "é'.encode()[:-1])
    assert Shelf(tmp_path).journal("j", 1).entries == {0: "né"}


def test_what_is_said_is_printed_as_it_is(capsys):
    """Brackets were once taken for markup: of a model's [/INST] it died, of a folder's [name] nothing was left."""
    reporter = ConsoleReporter()
    reporter.say("It failed on [/INST] in runs/[test]")
    list(reporter.track([(1, 1)], "Reading my[1].txt", 1))
    told = capsys.readouterr().err
    assert "It failed on [/INST] in runs/[test]" in told
    assert "Reading my[1].txt" in told
