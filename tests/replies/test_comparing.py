"""Replies under several steerings at once: each arm's are what it gives alone."""

import pytest
from conftest import hand_made

from alphasteer.prompts import ChatTemplate
from alphasteer.replies import compare_replies, generate_replies
from alphasteer.reporting import LogReporter
from alphasteer.resuming import Journal, Shelf

REPORT = LogReporter()


@pytest.fixture
def compare(llama, tokenizer, sequences):
    marker = ChatTemplate(tokenizer).reply_start

    def run(arms, shelf=None):
        return compare_replies(
            llama,
            tokenizer,
            sequences,
            marker,
            arms,
            REPORT,
            max_new_tokens=7,
            shelf=shelf or Shelf(),
            description="Replies",
        )

    return run


@pytest.fixture
def alone(llama, tokenizer, sequences):
    def run(steering):
        plain = generate_replies(llama, tokenizer, sequences, REPORT, max_new_tokens=7)
        if steering is None:
            return plain
        with steering.attach(llama):
            return generate_replies(llama, tokenizer, sequences, REPORT, max_new_tokens=7)

    return run


@pytest.fixture
def arms(llama, tokenizer):
    marker = ChatTemplate(tokenizer).reply_start
    steering = hand_made(llama, marker)
    return {"vanilla": None, "steered": steering, "paper": hand_made(llama, marker, positions="prompt")}


@pytest.mark.parametrize("names", [("vanilla",), ("vanilla", "steered"), ("vanilla", "steered", "paper")])
def test_each_arm_replies_as_it_does_alone(compare, alone, arms, names):
    chosen = {name: arms[name] for name in names}
    assert compare(chosen) == {name: alone(arms[name]) for name in names}


def test_an_interrupted_comparison_goes_on_and_ends_the_same(llama, compare, arms, tmp_path):
    del arms["paper"]
    whole = compare(arms, Shelf(tmp_path))
    journals = sorted(tmp_path.glob("replies-*.jsonl"))
    assert len(journals) == len(arms)
    lines = journals[0].read_text().splitlines(keepends=True)
    journals[0].write_text("".join(lines[:-1]) + lines[-1][:5])  # killed in the middle of a line
    assert len(Journal(journals[0]).entries) == len(lines) - 1
    assert compare(arms, Shelf(tmp_path)) == whole
    ran = []
    handle = llama.register_forward_hook(lambda *_: ran.append(1))
    assert compare(arms, Shelf(tmp_path)) == whole
    handle.remove()
    assert not ran, "what is known whole is not generated again"


def test_another_steering_is_another_arm_whatever_its_name(compare, arms, tmp_path):
    steering = arms["steered"]
    pushed = compare({"steered": steering}, Shelf(tmp_path))
    assert compare({"steered": steering.scaled(0)}, Shelf(tmp_path)) != pushed
