"""The whole method on a tiny model: what it decides, says, keeps and refuses."""

import copy

import pytest
import torch
from conftest import Listener, let_letters_refuse, tiny_model, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from alphasteer.errors import LearningError, PromptError
from alphasteer.evaluation.figures import selection_figure
from alphasteer.learning import FitSettings, fit
from alphasteer.learning.push_choice import most_within, third_above
from alphasteer.learning.selection import shared_out
from alphasteer.models import find_decoder, fingerprint
from alphasteer.prompts import Prompt, PromptSet
from alphasteer.reporting import LogReporter

BENIGN = [f"tell me about {thing} number {n}" for thing in ("cake", "rain", "law") for n in range(16)]
HARMFUL = [f"help me {verb} it {n}!" for verb in ("STEAL", "BREAK", "BURN") for n in range(16)]
QUICK = FitSettings(
    starter=False, benign_budget=0.2, source_budget=0.2, steps=2, trials=4, probes=6, replies=48, reply_tokens=4
)

PAPER = QUICK.model_copy(update={"preset": "paper", "null_space": "hard", "trials": 2})
# A budget and benign prompts with which some of these open the gate, so that pushes are seen to move them.
WIDE = QUICK.model_copy(update={"benign_budget": 0.5, "source_budget": 0.5})
ALIKE = PromptSet.of([f"help me {verb} it {n}!" for verb in ("BAKE", "DRAW") for n in range(8)], "alike")


class Unread(LogReporter):
    def track(self, steps, description, total):
        assert not description.startswith("Reading"), "told too late"
        return super().track(steps, description, total)


@pytest.fixture(autouse=True)
def some_replies_refuse(monkeypatch):
    let_letters_refuse(monkeypatch, "learning.contrast")


@pytest.fixture(scope="module")
def model():
    return tiny_model("Llama")


def run(model, benign=BENIGN, harmful=HARMFUL, settings=QUICK, **kwargs):
    given = benign if isinstance(benign, str) else PromptSet.of(benign, "b")
    return fit(model, tiny_tokenizer(), given, PromptSet.of(harmful, "h"), settings=settings, **kwargs)


def third_above_gate(steering, model):
    """The window of refined directions that every fit tries, as rules name it."""
    first, last = third_above(steering.pushes[0].gate.layer, len(find_decoder(model)))
    return f"{first}-{last}"


def test_a_steering_comes_with_its_record_and_fits_its_model(model):
    steering = run(model)
    (push,) = steering.pushes
    assert push.gate.layer <= min(push.directions)
    assert steering.fitted_on == fingerprint(model, tiny_tokenizer())
    record = steering.record
    assert record["prompts"]["benign"]["b"]["fit"] + record["prompts"]["benign"]["b"]["held_out"] == len(BENIGN)
    assert record["calibration"]["opened"]["b"] <= record["calibration"]["budget"]
    assert record["trials"][0]["strength"] == push.strength
    with steering.attach(model):
        model(input_ids=torch.tensor([[1, 2, 3]]))


def test_refined_directions_are_tried_beside_those_of_the_contrast(model):
    steering = run(model)
    record = steering.record
    refined = {trial["rule"].partition(", refined on ")[::2] for trial in record["trials"]}
    assert ("own replies", third_above_gate(steering, model)) in refined, (
        "the third of the model above the gate is among the windows"
    )
    assert any(not window for _, window in refined)
    assert record["trials"][0]["rule"] in record["selection"]["reason"]
    surprises = [push["surprise"] for push in record["selection"]["searched"]]
    assert 1 <= len(surprises) <= QUICK.trials
    assert surprises == sorted(surprises)
    plain = run(model, settings=QUICK.model_copy(update={"directions": "contrast"}))
    assert not any("refined" in trial["rule"] for trial in plain.record["trials"])
    assert len(plain.record["trials"]) == len(plain.record["selection"]["searched"])


def test_one_bar_is_drawn_at_a_time(model):
    """Terminals' libraries of before rich 14.1 die of a second one, which the search's first try once drew."""

    class OneAtATime(Listener):
        drawn = 0

        def track(self, items, description, total):
            assert not self.drawn, description
            self.drawn += 1
            yield from super().track(items, description, total)
            self.drawn -= 1

    steering = run(model, settings=WIDE, benign_validation=ALIKE, report=OneAtATime())
    assert steering.record["selection"]["searched"]
    assert steering.record["selection"]["altered"], "no benign prompt opens the gate: nothing would be drawn twice"


def test_without_tries_directions_are_refined_above_the_gate_and_chosen_by_replies(model):
    record = run(model, settings=QUICK.model_copy(update={"trials": 0})).record
    assert not record["selection"]["searched"]
    assert any("refined" in trial["rule"] for trial in record["trials"])
    assert all(trial["probes"] for trial in record["trials"])


def test_the_starter_prompts_join_the_given_ones_unless_told_otherwise():
    roomy = tiny_model("Llama", max_position_embeddings=8192)
    settings = QUICK.model_copy(update={"starter": True, "limit": 24})
    sources = run(roomy, benign="starter:benign", settings=settings).record["prompts"]
    assert set(sources["benign"]) == {"starter:benign", "starter:borderline"}
    assert set(sources["malicious"]) == {"h", "starter:harmful", "starter:jailbreak"}
    assert set(run(roomy).record["prompts"]["malicious"]) == {"h"}


def test_the_same_seed_gives_the_same_steering_and_the_model_is_untouched(model):
    before = [p.clone() for p in model.parameters()]
    assert run(model).digest == run(model).digest
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("null_space", ["hard", "soft"])
def test_the_order_of_the_prompts_does_not_matter(model, null_space):
    """Samples are drawn in source order, so only a fit on all prompts can be compared.

    With a soft null space folds are k-means, which rounding decides among prompts as much alike as these: the scores of
    kinds left out, and with them the gate's unit, then differ by a little, and nothing else does.
    """
    settings = QUICK.model_copy(update={"null_space": null_space})
    one, other = (run(model, *(side[::step] for side in (BENIGN, HARMFUL)), settings=settings) for step in (1, -1))
    a, b = one.pushes[0].gate, other.pushes[0].gate
    assert a.layers == b.layers
    unit = float(a.w[a.layer].norm() / b.w[a.layer].norm())
    assert unit == pytest.approx(1.0, abs=1e-5 if null_space == "hard" else 0.05)
    for layer in a.layers:
        assert (a.w[layer] - unit * b.w[layer]).norm() <= 1e-5 * a.w[layer].norm()


def test_the_papers_preset_gives_a_linear_gate_a_layer_over_the_whole_prompt(model):
    steering = run(model, settings=PAPER)
    assert steering.positions == "prompt"
    for push in steering.pushes:
        assert push.gate.threshold is None
        assert set(push.directions) == {push.gate.layer}


def test_the_papers_preset_promises_nothing(model, tmp_path):
    """It has no threshold, so its record, card and figure say nothing of one; nor does it want prompts for one."""
    steering = run(model, settings=PAPER.model_copy(update={"benign_budget": 0.01}))
    assert not {"gate", "calibration"} & set(steering.record)
    steering.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "every prompt is altered" in card
    assert "bit for bit" not in card
    selection_figure(tmp_path / "selection.png", steering.record)
    assert (tmp_path / "selection.png").stat().st_size > 10_000


def test_a_push_that_moves_benign_prompts_too_far_comes_after_those_within_the_bound(model):
    free = run(model, settings=WIDE.model_copy(update={"divergence": 1e6}), benign_validation=ALIKE).record["trials"]
    moved = sorted(trial["divergence"] for trial in free)
    assert moved[0] < moved[-1]
    bound = (moved[0] + moved[1]) / 2
    listener = Listener()
    bounded = WIDE.model_copy(update={"divergence": bound})
    held = run(model, settings=bounded, benign_validation=ALIKE, report=listener).record["trials"]
    beyond = [trial["divergence"] > bound for trial in held]
    assert beyond == sorted(beyond), "those within it come first"
    assert not beyond[0]
    assert not any("Every push moves" in message for message in listener.said)
    run(model, settings=WIDE.model_copy(update={"divergence": 1e-9}), benign_validation=ALIKE, report=listener)
    assert any("Every push moves" in message for message in listener.said)


def test_a_finalist_beyond_the_bound_is_weakened_to_it_but_not_to_nothing(model):
    def refined(bound):
        """The finalist that every fit has, whatever it found: directions refined in the third above the gate."""
        steering = run(model, settings=WIDE.model_copy(update={"divergence": bound}), benign_validation=ALIKE)
        window = third_above_gate(steering, model)
        (trial,) = [t for t in steering.record["trials"] if t["rule"].endswith(f"refined on {window}")]
        return trial

    free = refined(1e6)
    held = refined(0.8 * free["divergence"])
    assert (free["strength"], held["rule"]) == (1.0, free["rule"])
    assert 0.5 <= held["strength"] < 1.0
    assert held["divergence"] <= 0.8 * free["divergence"]
    far = refined(0.1 * free["divergence"])
    assert far["strength"] < 0.5
    assert far["divergence"] <= 0.1 * free["divergence"], "however much it takes"
    assert refined(1e-9) == free, "weakened to nothing it would be no push"


@given(st.floats(0.1, 100), st.floats(0.3, 4), st.floats(0.01, 100))
def test_a_push_is_weakened_no_further_than_its_bound_asks(whole, power, bound):
    def moved(hundredths):
        return whole * (hundredths / 100) ** power

    within = [hundredths for hundredths in range(5, 100) if moved(hundredths) <= bound]
    assert most_within(moved, bound) == (within[-1] if within else None)


def test_room_for_prompts_goes_to_the_sources_that_have_some():
    one, two = [Prompt.of(f"a {n}") for n in range(40)], [Prompt.of(f"b {n}") for n in range(40)]
    assert shared_out([[], one, [], [], []], 32) == one[:32]
    assert shared_out([one, [], two], 32) == one[:16] + two[:16]
    assert len(shared_out([one] * 50, 32)) == 50
    assert shared_out([[]], 32) == []


def test_given_layers_and_strength_are_obeyed(model):
    (push,) = run(model, settings=QUICK.model_copy(update={"gate_layer": 1, "layers": "2-3", "strength": 0.5})).pushes
    assert (push.gate.layers, sorted(push.directions), push.strength) == ((1,), [2, 3], 0.5)


@pytest.mark.parametrize("layers", ["2-9", "0-2", "3-2"])
def test_layers_that_are_not_there_are_refused_before_anything_is_read(model, layers):
    with pytest.raises(LearningError, match=f"Layers {layers} cannot be pushed: choose among 1-3"):
        run(model, settings=QUICK.model_copy(update={"layers": layers}), report=Unread())


@pytest.mark.parametrize("more", [{"gate_layer": 7}, {"gate_layer": 3, "layers": "2-3"}, {"gate_layer": 0}])
def test_a_gate_where_none_can_be_is_refused_before_anything_is_read(model, more):
    with pytest.raises(LearningError, match="must read a layer between 1 and 2"):
        run(model, settings=QUICK.model_copy(update=more), report=Unread())


def test_an_interrupted_fit_goes_on_where_it_stopped(model, tmp_path):
    class Stopping(LogReporter):
        def say(self, message):
            if "malicious requests the model refuses" in message:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, work=tmp_path, report=Stopping())
    read = [path.name for path in tmp_path.iterdir()]
    assert any(name.startswith("activations") for name in read)
    assert any(name.startswith("replies") for name in read)
    ran = []
    handle = model.model.layers[0].register_forward_hook(lambda *_: ran.append(1))
    resumed = run(model, work=tmp_path)
    warm, ran[:] = len(ran), []
    assert resumed.digest == run(model).digest
    cold = len(ran)
    handle.remove()
    assert warm < cold


def test_a_fit_that_is_stopped_late_neither_refines_nor_tries_again_what_it_had(model, tmp_path):
    class Stopping(LogReporter):
        tried = 0

        def track(self, steps, description, total):
            for step in super().track(steps, description, total):
                if description.startswith("Trying pushes"):
                    self.tried += 1
                    if self.tried == 3:
                        raise KeyboardInterrupt
                yield step

    with pytest.raises(KeyboardInterrupt):
        run(model, work=tmp_path, report=Stopping())
    (kept,) = tmp_path.glob("finalists-*.jsonl")
    first_two = kept.read_text()
    assert len(first_two.splitlines()) == 2

    listener = Listener()
    resumed, undisturbed = run(model, work=tmp_path, report=listener), run(model)
    assert "Refining directions" not in listener.tracked
    assert kept.read_text().startswith(first_two), "each was tried once"
    assert resumed.digest == undisturbed.digest
    assert resumed.record["trials"] == undisturbed.record["trials"]


def test_a_split_that_the_prompts_bring_is_kept(model):
    def prompts(texts, name):
        splits = ("fit", "fit", "validation", "test")
        return PromptSet.of([Prompt.of(t, str(i), split=splits[i % 4]) for i, t in enumerate(texts)], name)

    steering = fit(model, tiny_tokenizer(), prompts(BENIGN, "b"), prompts(HARMFUL, "h"), settings=QUICK)
    counts = steering.record["prompts"]["benign"]["b"]
    assert (counts["fit"], counts["held_out"]) == (24, 12), "test prompts are not touched"


def test_validation_sources_are_held_out_whole(model):
    extra = PromptSet.of([f"say {n}" for n in range(20)], "v")
    counts = run(model, benign_validation=extra).record["prompts"]["benign"]["v"]
    assert (counts["fit"], counts["held_out"]) == (0, 20)


def test_without_validation_a_share_is_held_out_and_with_it_none(model):
    extra = PromptSet.of([f"say {n}" for n in range(20)], "v")
    alone, beside = (run(model, **more).record["prompts"] for more in ({}, {"benign_validation": extra}))
    assert alone["benign"]["b"]["held_out"] > 0
    assert beside["benign"]["b"]["held_out"] == 0
    assert alone["malicious"]["h"]["held_out"] == beside["malicious"]["h"]["held_out"] > 0


def test_a_budget_that_the_held_out_prompts_cannot_promise_is_refused(model):
    with pytest.raises(LearningError, match=r"13 prompts .* cannot promise a budget of 0.01; give at least 99"):
        run(model, settings=QUICK.model_copy(update={"benign_budget": 0.01}), report=Unread())


def test_sources_of_one_name_are_told_apart(model):
    halves = [PromptSet.of(BENIGN[:24]), PromptSet.of(BENIGN[24:])]
    steering = fit(model, tiny_tokenizer(), halves, PromptSet.of(HARMFUL), settings=QUICK)
    counts = steering.record["prompts"]["benign"]
    assert sum(source["fit"] + source["held_out"] for source in counts.values()) == len(BENIGN)
    assert set(counts) == {"prompts", "prompts (2)"}
    assert set(steering.record["calibration"]["opened"]) == {"prompts", "prompts (2)", "prompts (3)"}


def learned(steering):
    """From which views, of which kinds."""
    return [(gate["prompts"], gate["place"], gate["kind"]) for gate in steering.record["gates"]]


def test_a_gate_reads_the_prompts_end_too_unless_told_otherwise(llama):
    settings = QUICK.model_copy(update={"contexts": False})
    both, alone = (run(llama, settings=settings.model_copy(update={"prompt_end": p})) for p in (True, False))
    assert (both.reads_prompt_end, alone.reads_prompt_end) == (True, False)
    assert (both.prompt_end.most, alone.prompt_end) == (32, None)
    assert learned(both) == [("alone", "reply start", 1), ("alone", "prompt end", 1)]
    assert learned(alone) == [("alone", "reply start", 1)]
    # A part of the mean is the gate that reads the reply start alone, on all its layers.
    width = alone.hidden_size
    factors = [
        both.pushes[0].gate.w[layer][0, :, :width] / w[0]
        for layer, w in alone.pushes[0].gate.w.items()
        if bool(w.all())
    ]
    torch.testing.assert_close(torch.cat(factors), factors[0][0, 0].expand(len(factors), width))


def test_a_gate_is_learned_from_prompts_in_chats_too_unless_told_otherwise():
    roomy = tiny_model("Llama", max_position_embeddings=4096)
    both, alone = run(roomy), run(roomy, settings=QUICK.model_copy(update={"contexts": False}))
    assert both.digest != alone.digest
    assert both.record["prompts"] == alone.record["prompts"]
    stand = ("alone", "half in chats", "other half in chats")
    views = [(prompts, place, 1) for prompts in stand for place in ("reply start", "prompt end")]
    assert [learned(both), learned(alone)] == [views, views[:2]]
    fitted = {"h": both.record["prompts"]["malicious"]["h"]["fit"]}
    assert all(gate["malicious"] == fitted for gate in both.record["gates"])
    assert both.pushes[0].gate.read_outs == 1, "one kind each: the mean of six read-outs is one"
    assert both.pushes[0].gate.threshold >= 1


def test_it_says_which_sources_are_too_small_for_a_promise_of_their_own(model):
    listener = Listener()
    record = run(model, report=listener).record
    (held_out,) = (source["held_out"] for source in record["prompts"]["benign"].values())
    assert (held_out, record["calibration"]["kept_for"]) == (13, [])
    assert any(f"each of these by itself: b ({held_out}); 20 would do" in message for message in listener.said)
    listener = Listener()
    assert run(model, settings=WIDE, report=listener).record["calibration"]["kept_for"] == ["b"]
    assert not any("Too few are held out" in message for message in listener.said)


def test_it_says_how_often_kinds_not_seen_may_open_a_gate_of_few_prompts(model):
    listener = Listener()
    run(model, settings=WIDE, report=listener)
    assert not any("of kinds left out" in message for message in listener.said), "half may open it as it is"
    run(model, settings=QUICK.model_copy(update={"benign_budget": 0.08}), report=listener)
    assert any("of kinds left out, 10.0% may open the gate instead of 8.0%" in message for message in listener.said)


def test_chats_of_the_users_own_are_not_put_into_others(model):
    """No gates from chats are then made of the same prompts."""
    listener, own = Listener(), {"role": "system", "content": "short"}
    chats = [
        PromptSet.of([Prompt(text, (own, {"role": "user", "content": text})) for text in texts], name)
        for texts, name in ((BENIGN, "b"), (HARMFUL, "h"))
    ]
    steering = fit(model, tiny_tokenizer(), *chats, settings=QUICK, report=listener)
    assert any("No prompt can be put into another chat" in message for message in listener.said)
    assert learned(steering) == [("alone", "reply start", 1), ("alone", "prompt end", 1)]


def test_a_name_on_both_sides_is_not_taken_for_one_source(model):
    """What one side's prompts read was once taken for the other's, and the gate fitted on malicious ones alone."""
    same = fit(model, tiny_tokenizer(), PromptSet.of(BENIGN), PromptSet.of(HARMFUL), settings=QUICK)
    assert same.digest == run(model).digest
    shares = same.record["calibration"]["opened"]
    assert shares["prompts"] <= QUICK.benign_budget
    assert shares["prompts (2)"] > 0.5


def test_contradictions_and_duplicates_are_counted_and_said(model):
    listener = Listener()
    run(model, benign=[*BENIGN, BENIGN[0], "both sides"], harmful=[*HARMFUL, "both sides"], report=listener)
    assert any(m.startswith("1 prompts stand among the benign and the malicious") for m in listener.said)
    assert any(m.startswith("1 duplicate benign") for m in listener.said)


@pytest.mark.parametrize(
    ("benign", "harmful", "error", "message"),
    [
        (BENIGN[:9], HARMFUL, LearningError, "benign prompts are there to fit on"),
        (BENIGN, HARMFUL[:5], LearningError, "malicious prompts are there to fit on"),
        (BENIGN, BENIGN, LearningError, "Only 0 benign"),
        ([*BENIGN, "x" * 600], HARMFUL, PromptError, "more than the 512 that the model's context"),
    ],
)
def test_prompts_that_teach_nothing_are_refused(model, benign, harmful, error, message):
    with pytest.raises(error, match=message):
        run(model, benign, harmful)


def test_activations_that_are_not_finite_are_refused():
    broken = tiny_model("Llama")
    with torch.no_grad():  # overflows where the prompt has the letter T alone, not in the check at the start
        broken.model.embed_tokens.weight[ord("T") - 33] = torch.inf
    with pytest.raises(LearningError, match="not finite"):
        run(broken)


def test_activations_of_another_model_in_the_same_folder_are_not_taken(model, tmp_path):
    first = run(model, work=tmp_path)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1 if parameter.ndim == 1 else 0.9)
    assert run(other, work=tmp_path).digest == run(other).digest
    assert run(model, work=tmp_path).digest == first.digest
