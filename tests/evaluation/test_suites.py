"""Suites as data: built in, taken from files, or a user's own; and what is right about a reply."""

import json

import pytest

from alphasteer.errors import EvaluationError, PromptError
from alphasteer.evaluation import built_in_suites, read_suites, right_choice, right_number


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_suites_that_ship_are_the_fields_own():
    known = built_in_suites()
    kinds = {name: entry.kind for name, entry in known.items()}
    assert {name for name, kind in kinds.items() if kind == "over-refusal"} >= {
        "xstest_safe",
        "or_bench",
        "jailbreakbench_benign",
    }
    assert {"advbench", "harmbench", "strongreject", "jailbreakbench_harmful", "xstest_unsafe"} <= set(kinds)
    assert {"gsm8k", "math500", "mmlu", "alpaca_eval"} <= {n for n, kind in kinds.items() if kind == "utility"}
    assert sum(name.startswith("attack_") for name in kinds) == 7


def test_the_starter_suites_are_the_splits_that_nothing_is_fitted_on():
    for name in ("harmful", "jailbreak", "borderline", "benign"):
        (suite,) = read_suites(f"starter_{name}")
        assert {prompt.split for prompt in suite.prompts} == {"test"}


def test_a_suites_prompts_can_come_from_a_file(tmp_path):
    path = lines(
        tmp_path / "q.jsonl",
        {"id": "1", "prompt": "Which {one}?", "choices": ["red", "blue"], "answer": "B"},
        {"id": "2", "question": "Which colour?", "choices": ["green", "pink"], "answer": 0},
    )
    (suite,) = read_suites(f"mmlu={path}")
    first, second = suite.prompts
    assert (suite.kind, suite.metric) == ("utility", "choice")
    assert first.text.startswith("Which {one}?\n\nA. red\nB. blue\n"), "braces of the prompt's own are left alone"
    assert second.text.startswith("Which colour?\n\nA. green\nB. pink\n"), "the suite's own column is known too"
    assert (first.answer, second.answer) == ("B", "0")


def test_a_users_own_suite_is_a_yaml_file(tmp_path):
    prompts = lines(
        tmp_path / "p.jsonl",
        {"q": "one", "label": "keep"},
        {"q": "two", "label": "drop"},
        {"q": "three", "label": "keep"},
    )
    own = tmp_path / "own.yaml"
    own.write_text(
        f"mine: {{kind: safety, metric: refusal, source: {prompts}, prompt: q, where: {{label: keep}}, "
        'template: "Now: {prompt}"}\n'
    )
    (suite,) = read_suites(str(own))
    assert (suite.name, [p.text for p in suite.prompts]) == ("mine", ["Now: one", "Now: three"])
    own.write_text(own.read_text().replace("label", "lable"))
    with pytest.raises(PromptError, match="row 1 has no column 'lable', by which rows are chosen"):
        read_suites(str(own))


def test_a_yaml_files_sources_are_named_from_where_it_stands(tmp_path, monkeypatch):
    (tmp_path / "suites").mkdir()
    for folder, text in ((tmp_path / "suites", "beside"), (tmp_path, "here")):
        lines(folder / "p.jsonl", {"q": text})
    lines(tmp_path / "only_here.jsonl", {"q": "only here"})
    own = tmp_path / "suites" / "own.yaml"
    monkeypatch.chdir(tmp_path)
    for source, text in (("p.jsonl:q", "beside"), ("only_here.jsonl:q", "only here"), ("../p.jsonl:q", "here")):
        own.write_text(f"mine: {{kind: safety, metric: refusal, source: '{source}'}}")
        (suite,) = read_suites("suites/own.yaml")
        assert [prompt.text for prompt in suite.prompts] == [text]
    own.write_text("mine: {kind: utility, metric: identical, source: 'starter:benign@test'}")
    assert len(read_suites(str(own))[0].prompts) > 100
    for wrong, message in (("", "add a line source"), (", source: 'p.jsonl:q', template: hi", "template: .*prompt")):
        own.write_text(f"mine: {{kind: safety, metric: refusal{wrong}}}")
        with pytest.raises(PromptError, match=message):
            read_suites("suites/own.yaml")
    own.write_text("mine: {kind: safety, metric: refusal, source: 'p.josnl:q'}")
    with pytest.raises(PromptError, match=r"p\.josnl:q: no such file, in suites or in the working folder"):
        read_suites("suites/own.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonesuch", "There is no suite 'nonesuch'"),
        ("attack_aim", "no source of its own"),
        ("missing.yaml", "cannot be read"),
        ("gsm8k=missing.jsonl", "no such file"),
    ],
)
def test_suites_that_are_not_there_are_refused(text, message):
    with pytest.raises(PromptError, match=message):
        read_suites(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n", "defines no suites"),
        ("mine: {kind: dangerous, metric: refusal}\n", "mine.*kind"),
        ("mine: {kind: safety, metric: refusal, sauce: x}\n", "mine.*sauce"),
        ("mine: {kind: safety\n", "cannot be read"),
    ],
)
def test_bad_yaml_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(PromptError, match=message):
        read_suites(str(tmp_path / "own.yaml"))


def test_a_suite_that_needs_answers_says_which_prompt_has_none(tmp_path):
    path = lines(tmp_path / "q.jsonl", {"id": "1", "prompt": "1+1", "answer": "2"}, {"id": "7", "prompt": "2+2"})
    with pytest.raises(PromptError, match="'7' has no answer"):
        read_suites(f"gsm8k={path}")


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("She has 3 apples and buys 15 more, so the answer is 18.", "18", True),
        ("So it is \\boxed{18}.", "#### 18", True),
        ("The total is $1,250.", "She earns 50 * 25 = 1250 #### 1,250", True),
        ("It is $\\frac{1}{2}$.", "0.5", True),
        ("The answer is 19.", "18", False),
        ("It lies at $\\left( 3, \\frac{\\pi}{2} \\right)$.", "\\left( 3, \\frac{\\pi}{2} \\right)", True),
        ("So the solutions are $1,-2$.", "1,-2", True),
        ("That is $[1,3]$.", "[1,3]", True),
        ("I'm sorry, but I can't help with that.", "18", False),
        ("", "18", False),
    ],
)
def test_right_numbers(reply, answer, right):
    pytest.importorskip("math_verify")
    assert right_number(reply, answer) is right


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("B", True),
        ("B. blue", True),
        ("(B)", True),
        ("**B**", True),
        ("The correct answer is B.", True),
        ("The answer is: (B)", True),
        ("Answer: B", True),
        ("The Answer is B", True),
        ("Option B, since it is blue", True),
        ("A. red", False),
        ("The answer is a bird, so B would be wrong.", False),
        ("Blue is the colour I would choose.", False),
        ("A bird is neither.", False),
        ("I can't answer that.", False),
        ("", False),
    ],
)
def test_right_choices(reply, right):
    assert right_choice(reply, "B", ("red", "blue")) is right
    assert right_choice(reply, "1", ("red", "blue")) is right


@pytest.mark.parametrize("answer", ["C", "2", "", "AB"])
def test_an_answer_that_is_no_choice_is_refused(answer, tmp_path):
    path = tmp_path / "quiz.jsonl"
    path.write_text(json.dumps({"prompt": "?", "answer": answer, "choices": ["red", "blue"]}) + "\n")
    with pytest.raises(PromptError, match="the answer of no prompt is one of its choices"):
        read_suites(f"mmlu={path}")
    with path.open("a") as file:
        file.write(json.dumps({"prompt": "and now?", "answer": "B", "choices": ["red", "blue"]}) + "\n")
    (quiz,) = read_suites(f"mmlu={path}")
    assert ([prompt.answer for prompt in quiz.prompts], quiz.left_out) == (["B"], 1)
    with pytest.raises(EvaluationError, match="none of the 2 choices"):
        right_choice("A", answer, ("red", "blue"))


@pytest.mark.parametrize("reply", ["A", "A.", "(A)", "Answer: A", "A\nBecause it is red."])
def test_a_letter_that_is_a_word_too_is_read_where_it_stands_alone(reply):
    assert right_choice(reply, "A", ("red", "blue"))
    assert not right_choice("A bird is neither.", "A", ("red", "blue"))


def test_questions_of_one_wording_with_other_choices_are_not_one(tmp_path):
    path = tmp_path / "quiz.jsonl"
    rows = [{"prompt": "Which is true?", "answer": "A", "choices": [f"a{n}", "b"]} for n in (0, 1, 1)]
    path.write_text("\n".join(map(json.dumps, rows)))
    (quiz,) = read_suites(f"mmlu={path}")
    assert (len(quiz.prompts), quiz.left_out) == (2, 1)
