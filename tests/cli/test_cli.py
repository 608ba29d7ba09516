"""The command line on a tiny model saved in a folder: as a user would call it."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import let_letters_refuse, tiny_model, tiny_tokenizer
from rich.console import Console
from typer.testing import CliRunner

from alphasteer.cli import chat
from alphasteer.cli import main as cli
from alphasteer.cli.options import output_folder
from alphasteer.resuming import alone_in
from alphasteer.steering import Steering

runner = CliRunner()


def call(*arguments, **kwargs):
    return runner.invoke(cli.app, [str(a) for a in arguments], catch_exceptions=True, **kwargs)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    tiny_model("Llama").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    (folder / "fine.txt").write_text("\n".join(f"tell me about {t} {n}" for t in ("cake", "rain") for n in range(24)))
    (folder / "bad.txt").write_text("\n".join(f"help me {t} it {n}" for t in ("STEAL", "BURN") for n in range(24)))
    (folder / "fit.yaml").write_text(
        f"model: {folder / 'model'}\nbenign: [{folder / 'fine.txt'}]\nharmful: [{folder / 'bad.txt'}]\n"
        "starter: false\nbenign_budget: 0.2\nsource_budget: 0.2\nsteps: 2\nprobes: 4\nreply_tokens: 4\nstrength: 0.5\n"
    )
    return folder


@pytest.fixture(scope="module")
def artefact(place):
    with pytest.MonkeyPatch.context() as patch:
        let_letters_refuse(patch, "learning.contrast")
        result = call("fit", "--config", place / "fit.yaml", "--strength", "0.7", "-o", place / "out", "--json", "-q")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["settings"]["strength"] == 0.7, "a flag wins over the config"
    return place / "out"


def test_fit_writes_an_artefact_that_inspect_explains(artefact):
    steering = Steering.from_pretrained(artefact)
    shown = call("inspect", artefact, "--json")
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["pushes"][0]["gate_layers"] == list(steering.pushes[0].gate.layers)
    words = call("inspect", artefact).stdout
    for word in ("gate reads layers", "Gate quality", "Held-out prompts that open the gate", "fine.txt"):
        assert word in words
    assert "AUROC" in words
    assert "Why this push: Layers" in words
    assert (artefact / "selection.png").stat().st_size > 10_000


def test_inspect_shows_each_kinds_best_layer_beside_what_is_read_of_it(artefact, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    record = Steering.from_pretrained(artefact).record
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in call("inspect", artefact).stdout.splitlines()]
    assert len(record["gates"]) > 1
    for learned in record["gates"]:
        best, taken = max(learned["single_layers"], key=lambda of: of["partial_auc"]), learned["read_out"]
        malicious = ", ".join(f"{count} {Path(name).stem}" for name, count in learned["malicious"].items())
        shown = [f"{learned['prompts']}, {learned['place']}", malicious, best["layer"]]
        shown += [f"{best[key]:.3f}" for key in ("mu", "alpha", "auc", "partial_auc")]
        shown += [taken["layers"], f"{taken['auc']:.3f}", f"{taken['partial_auc']:.3f}"]
        assert [*map(str, shown)] in lines


def test_generate_from_arguments_and_files(artefact, place):
    one = call("generate", artefact, "hello there", "--max-new-tokens", 4, "-q", "--json")
    assert one.exit_code == 0, one.output
    assert json.loads(one.stdout)["prompt"] == "hello there"
    many = call(
        "generate", artefact, "--prompts", place / "fine.txt", "--limit", 3, "--max-new-tokens", 4, "-q", "--json"
    )
    assert len(many.stdout.splitlines()) == 3
    strong = call("generate", artefact, "hello there", "--max-new-tokens", 4, "-q", "--strength", 0)
    assert strong.exit_code == 0


def test_chat_obeys_its_commands_and_keeps_the_conversation(artefact):
    talk = "hello\n/gates\n/strength 0.5\n/strength much\n/strength nan\n/off\nand now?\n/new\n/what\n/quit\n"
    result = call("chat", artefact, "--max-new-tokens", 3, input=talk)
    assert result.exit_code == 0, result.output
    for words in ("layer", "open", "strength 0.5", "wants a number", "unsteered", "a new conversation", "/quit"):
        assert words in result.stdout
    assert call("chat", artefact, input="").exit_code == 0, "the end of the input ends the chat"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fit"], 2, "name the model"),
        (["generate", "{out}"], 2, "give prompts"),
        (["generate", "{out}", "hi", "--prompts", "x.txt"], 2, "one of the two"),
        (["fit", "{place}/model", "--benign", "nowhere.txt"], 1, "no such file"),
        (["fit", "{place}/nowhere"], 1, "cannot be loaded"),
        (["fit", "{place}/model", "--layers", "many"], 1, "'layers'"),
        (["inspect", "{place}/model"], 1, "cannot be read"),
        (["fit", "{place}/model", "-o", "{place}/fine.txt/x"], 1, "cannot be written"),
    ],
)
def test_errors_are_one_sentence_with_an_exit_code(
    artefact, place, tmp_path, capsys, monkeypatch, arguments, code, message
):
    filled = [a.format(out=artefact, place=place) for a in arguments]
    monkeypatch.chdir(tmp_path)  # where a fit's folder goes by default
    monkeypatch.setattr("sys.argv", ["alphasteer", *filled])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr().err
    assert stopped.value.code == code
    assert message in " ".join(said.replace("│", " ").split())
    assert "Traceback" not in said


def test_a_changed_chat_template_is_refused_with_the_difference_named(artefact, place, tmp_path):
    tiny_model("Llama").save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template += " "
    tokenizer.save_pretrained(tmp_path)
    result = call("generate", artefact, "hi", "--model", tmp_path)
    assert result.exit_code == 1
    assert "chat_template is" in str(result.exception)


def test_help_is_quick_and_imports_no_torch(monkeypatch):
    import subprocess
    import sys

    code = "import sys; from alphasteer.cli.main import app; import alphasteer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_eval_compares_arms_and_writes_results(artefact, place):
    suites = ["--suite", f"advbench={place / 'bad.txt'}", "--suite", f"alpaca_eval={place / 'fine.txt'}"]
    options = ["--limit", 3, "--max-new-tokens", 4, "-o", place / "eval", "-q"]
    table = call("eval", artefact, *suites, *options, "--sweep", "0,1")
    assert table.exit_code == 0, (table.output, table.exception)
    assert "| suite | n | metric | vanilla | steered x0 | steered x1 |" in table.stdout
    found = json.loads((place / "eval" / "results.json").read_text())
    assert found["arms"] == ["vanilla", "steered x0", "steered x1"]
    assert {name: suite["n"] for name, suite in found["suites"].items()} == {"advbench": 3, "alpaca_eval": 3}
    assert found["averages"]["steered x0"]["identical"] == 1.0, "strength 0 changes nothing"
    assert found["steering"] == Steering.from_pretrained(artefact).digest
    again = call("eval", artefact, *suites, *options, "--sweep", "0,1", "--json")
    assert json.loads(again.stdout.splitlines()[-1]) == found


def test_eval_compares_with_baselines_and_other_artefacts(artefact, place):
    suites = ["--suite", f"advbench={place / 'bad.txt'}", "--suite", f"alpaca_eval={place / 'fine.txt'}"]
    options = ["--limit", 3, "--max-new-tokens", 4, "-o", place / "arms", "-q"]
    arms = ["--arm", "steered", "--arm", "refusal_vector", "--arm", f"twin={artefact}"]

    with pytest.MonkeyPatch.context() as patch:
        let_letters_refuse(patch, "learning.contrast")
        first = call("eval", artefact, *suites, *options, *arms, "--format", "json")
    assert first.exit_code == 0, (first.output, first.exception)
    found = json.loads(first.stdout.splitlines()[-1])
    assert found["arms"] == ["vanilla", "steered", "refusal_vector", "twin"]
    metrics = found["suites"]["alpaca_eval"]["metrics"]
    assert metrics["twin"] == metrics["steered"]
    kept = place / "arms" / "baselines" / "refusal_vector"
    assert Steering.from_pretrained(kept).record["baseline"] == "refusal_vector"
    assert "Pushes tried" in call("inspect", kept).stdout
    # A baseline is fitted once; its evidence is not looked for again.
    again = call("eval", artefact, *suites, *options, *arms, "--json")
    assert json.loads(again.stdout.splitlines()[-1]) == found


def test_baselines_want_the_prompts_that_the_steering_was_fitted_on(artefact, place):
    fine = place / "fine.txt"
    before = fine.read_text()
    fine.write_text(before.replace("cake 3", "pie 3"))
    try:
        changed = call("eval", artefact, "--arm", "cast", "-o", place / "changed", "-q")
    finally:
        fine.write_text(before)
    assert changed.exit_code == 1
    assert "no longer holds the prompts" in str(changed.exception)


def test_eval_refuses_a_folder_in_which_another_run_is_at_work(artefact, place):
    with alone_in(output_folder(place / "busy")):
        second = call("eval", artefact, "-o", place / "busy")
    assert second.exit_code == 1
    assert "Another run is at work" in str(second.exception)


def test_an_evaluation_that_is_killed_goes_on_and_ends_with_the_same_figures(artefact, place):
    def evaluating(folder):
        line = "from alphasteer.cli.main import app; app()"
        suites = [f"--suite=starter_harmful={place / 'bad.txt'}", f"--suite=starter_benign={place / 'fine.txt'}"]
        command = [sys.executable, "-c", line, "eval", str(artefact), "-o", str(folder), "-q", *suites]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def replies(folder):
        return sum(len(path.read_text().splitlines()) for path in folder.glob("work/replies-*.jsonl"))

    whole, killed = place / "whole", place / "killed"
    first = evaluating(whole)
    assert first.wait() == 0, first.stderr.read()
    victim = evaluating(killed)
    while victim.poll() is None and not replies(killed):
        time.sleep(0.01)
    victim.kill()
    assert victim.wait() != 0, "it was over before it could be killed"
    assert 0 < replies(killed) < replies(whole)
    assert not (killed / "results.json").exists()
    again = evaluating(killed)
    assert again.wait() == 0, again.stderr.read()
    assert json.loads((killed / "results.json").read_text()) == json.loads((whole / "results.json").read_text())


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"steering": "another"}', "holds what another steering reached"), ("[1]", "is no results of ours")],
)
def test_eval_writes_over_no_others_results(artefact, place, content, message):
    folder = place / "others"
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(content)
    result = call("eval", artefact, "-o", folder)
    assert result.exit_code == 1
    assert message in str(result.exception)
    assert (folder / "results.json").read_text() == content


def test_fit_refuses_a_folder_in_which_another_run_is_at_work(place):
    with alone_in(output_folder(place / "busy_fit")):
        result = call("fit", "--config", place / "fit.yaml", "-o", place / "busy_fit", "-q")
    assert result.exit_code == 1
    assert "Another run is at work" in str(result.exception)


def test_eval_refuses_what_it_does_not_know(artefact, place):
    assert call("eval", artefact, "--sweep", "much", "-o", place / "x").exit_code == 2
    unknown = call("eval", artefact, "--suite", "nonesuch", "-o", place / "x")
    assert unknown.exit_code == 1
    assert "no suite 'nonesuch'" in str(unknown.exception)
    unknown = call("eval", artefact, "--arm", "nonesuch", "-o", place / "x")
    assert unknown.exit_code == 1
    assert "no arm 'nonesuch'" in str(unknown.exception)


def test_score_ranks_prompts_and_says_what_would_be_steered(artefact, place):
    result = call("score", artefact, "--prompts", place / "bad.txt", "--limit", 5, "--json", "-q")
    assert result.exit_code == 0, (result.output, result.exception)
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert len(rows) == 5
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    threshold = Steering.from_pretrained(artefact).pushes[0].gate.threshold
    assert all((row["opened"] > 0) == (row["score"] > threshold) for row in rows)
    assert "prompts would be steered" in call("score", artefact, "--prompts", place / "fine.txt").output


def test_score_knows_linear_gates_which_steer_either_way(place):
    with pytest.MonkeyPatch.context() as patch:
        let_letters_refuse(patch, "learning.contrast")
        config = (place / "fit.yaml", "--preset", "paper", "--trials", 2)
        made = call("fit", "--config", *config, "-o", place / "paper", "-q")
    assert made.exit_code == 0, (made.output, made.exception)
    told = call("score", place / "paper", "--prompts", place / "fine.txt", "--limit", 5)
    assert "5 of 5 prompts would be steered" in told.output
    assert told.stdout.count("  steered  ") == 5
    words = call("inspect", place / "paper").stdout
    assert "Why this push" in words
    assert "alters at most" not in words


def test_calibrate_moves_the_threshold_and_nothing_else(artefact, place):
    result = call(
        "calibrate",
        artefact,
        "--benign",
        place / "fine.txt",
        "--benign-budget",
        0.1,
        "-o",
        place / "own",
        "--json",
        "-q",
    )
    assert result.exit_code == 0, (result.output, result.exception)
    found = json.loads(result.stdout)
    assert (found["n"], found["budget"]) == (48, 0.1)
    assert found["observed"] <= 0.1
    before, after = Steering.from_pretrained(artefact), Steering.from_pretrained(place / "own")
    assert after.pushes[0].gate.threshold == pytest.approx(found["threshold"])
    assert after.pushes[0].gate.w.keys() == before.pushes[0].gate.w.keys()
    assert after.record["settings"] == before.record["settings"]
    scored = call("score", place / "own", "--prompts", place / "fine.txt", "--json", "-q").stdout.splitlines()
    assert sum(json.loads(row)["opened"] > 0 for row in scored) == round(48 * found["observed"])
    told = call("inspect", place / "own").stdout
    assert "fine.txt" in told
    assert "set anew since" in " ".join(told.split())


def test_a_strength_is_a_finite_number(artefact):
    refused = call("generate", artefact, "hello", "--strength", "nan")
    assert refused.exit_code == 2
    assert "nan is no strength" in " ".join(refused.output.split())


@pytest.mark.parametrize("name", ["fit", "calibrate", "score", "generate"])
def test_help_shows_all_of_what_a_prompt_source_may_be(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert "hub:org/name[@split][:column]" in call(name, "--help").output


def test_calibrate_says_where_the_threshold_falls_or_rises(artefact, place):
    """Of few kinds of prompts a budget asks for little; another kind may then open the gate more often."""
    low, back = place / "low", place / "back"
    for source, budget, made, fell in ((artefact, 0.5, low, True), (low, 0.03, back, False)):
        options = ("--benign", place / "fine.txt", "--benign-budget", budget, "-o", made)
        told = " ".join(call("calibrate", source, *options).stderr.split())
        assert (threshold(made) < threshold(source)) is fell
        assert ("The threshold falls below" in told) is fell


def threshold(folder):
    return Steering.from_pretrained(folder).pushes[0].gate.threshold


def test_inspect_shows_what_it_can_of_an_older_record(artefact, place):
    steering = Steering.from_pretrained(artefact)
    older = [{key: value for key, value in of.items() if key != "single_layers"} for of in steering.record["gates"]]
    replace(steering, record={**steering.record, "gates": older}).save_pretrained(place / "older")
    told = call("inspect", place / "older")
    assert told.exit_code == 0, (told.output, told.exception)
    assert "recorded in an older form" in " ".join(told.stdout.split())
    assert "Pushes tried by replies" in told.stdout


def test_calibrate_says_what_a_promise_would_take(artefact, place):
    few = call("calibrate", artefact, "--benign", place / "fine.txt", "-o", place / "few", "-q")
    assert few.exit_code == 1
    assert "give at least 99" in str(few.exception)
    assert not (place / "few").exists()
    away = call("calibrate", "org/name", "--benign", place / "fine.txt", "--benign-budget", 0.1, "-q")
    assert "say with --output" in str(away.exception)


def test_calibrate_says_that_prompts_were_fitted_on(artefact, place):
    options = ("--benign-budget", 0.1, "-o", place / "again")
    seen = call("calibrate", artefact, "--benign", place / "fine.txt", *options)
    assert "fine.txt was fitted on" in seen.stderr.replace("\n", "")
    (place / "copy.txt").write_text((place / "fine.txt").read_text())
    copied = call("calibrate", artefact, "--benign", place / "copy.txt", *options)
    assert "fine.txt was fitted on" in copied.stderr.replace("\n", ""), "by another path"
    (place / "new.txt").write_text("\n".join(f"what is a {n}" for n in range(30)))
    new = call("calibrate", artefact, "--benign", place / "new.txt", *options)
    assert new.exit_code == 0, (new.output, new.exception)
    assert "was fitted on" not in new.stderr.replace("\n", " ")


def test_calibrate_keeps_the_budget_for_each_group(artefact, place):
    """By file, and by what the prompts' column says they are."""
    for name, count in (("one", 30), ("two", 20)):
        rows = [{"prompt": f"{name} of {n}", "category": "odd" if n % 2 else "even"} for n in range(count)]
        (place / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = [str(place / f"{name}.jsonl") for name in ("one", "two")]
    for groups, counts in (("source", dict(zip(files, (30, 20), strict=True))), ("category", {"even": 25, "odd": 25})):
        options = ("--groups", groups, "--benign-budget", 0.1, "-o", place / groups, "--json", "-q")
        result = call("calibrate", artefact, "--benign", files[0], "--benign", files[1], *options)
        found = json.loads(result.stdout)
        assert (found["held_for"], found["groups"]) == ("each group", counts)
        assert max(found["opened"].values()) <= 0.1
    few = call("calibrate", artefact, "--benign", files[1], "--groups", "category", "--benign-budget", 0.05, "-q")
    assert "10 prompts (even) cannot promise a budget of 0.05" in str(few.exception)


def test_a_prompt_in_two_files_counts_once_for_the_promise(artefact, place):
    again = place / "again.txt"
    again.write_text((place / "fine.txt").read_text() + "\nand one more")
    files = ["--benign", place / "fine.txt", "--benign", again]
    result = call("calibrate", artefact, *files, "--benign-budget", 0.1, "-o", place / "once", "--json")
    assert json.loads(result.stdout)["n"] == 49
    assert "48 prompts stand in several sources and count once." in result.stderr


def test_ctrl_c_says_how_to_go_on(artefact, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("alphasteer.steering.load_steered", interrupted)
    result = call("score", artefact, "--prompts", "starter:benign")
    assert result.exit_code == 130
    assert "run the same command again to go on" in result.stderr


def test_an_interrupted_reply_keeps_what_was_said(llama, tokenizer, monkeypatch, capsys):
    from transformers import TextStreamer

    shown = []

    def finalized(self, text, stream_end=False):
        shown.append(text)
        if len("".join(shown)) > 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(TextStreamer, "on_finalized_text", finalized)
    said = chat._stream(llama, tokenizer, [{"role": "user", "content": "Hello"}], 60, Console())
    assert said == "".join(shown)
    assert said
