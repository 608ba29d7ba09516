"""The artefact on disk: what comes back, and what is refused."""

import json
import os
import pickle

import pytest
import torch
from conftest import hand_made

from alphasteer.errors import SteeringError
from alphasteer.models import fingerprint
from alphasteer.steering import Gate, Push, Steering


@pytest.fixture
def steering(llama, tokenizer):
    made = hand_made(llama, (5, 6, 7), threshold=0.25, ceiling=0.75, strength=1.4)
    return Steering(
        made.pushes, made.reply_start, fitted_on=fingerprint(llama, tokenizer), record={"seed": 0, "note": "é"}
    )


@pytest.fixture
def folder(steering, tmp_path):
    steering.save_pretrained(tmp_path / "artefact")
    return tmp_path / "artefact"


def test_everything_comes_back(steering, folder):
    again = Steering.from_pretrained(folder)
    assert again.digest == steering.digest
    assert (again.fitted_on, again.record, again.positions) == (steering.fitted_on, steering.record, steering.positions)
    for a, b in zip(again.pushes, steering.pushes, strict=True):
        assert torch.equal(a.gate.w[1], b.gate.w[1])
        assert all(torch.equal(a.directions[n], b.directions[n]) for n in b.directions)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_000_000


def test_the_papers_form_comes_back_too(llama, tmp_path):
    made = hand_made(llama, (5,), positions="prompt")
    made.save_pretrained(tmp_path)
    again = Steering.from_pretrained(tmp_path)
    assert again.digest == made.digest
    assert [push.gate.threshold for push in again.pushes] == [None] * 3


def test_gates_of_several_read_outs_come_back_and_are_not_taken_for_others(steering, tmp_path):
    push = steering.pushes[0]
    w = push.gate.w[1]

    def gated(rows):
        return Steering((Push(Gate({1: rows}, 0.25, 0.75), push.directions),), (5,))

    two = gated(torch.stack([w, 2 * w]))
    two.save_pretrained(tmp_path)
    again = Steering.from_pretrained(tmp_path)
    assert torch.equal(again.pushes[0].gate.w[1], torch.stack([w, 2 * w]))
    assert again.pushes[0].gate.read_outs == 2
    assert again.digest == two.digest
    others = [gated(rows).digest for rows in (w, torch.stack([2 * w, w]), torch.stack([w, 2 * w])[:, None])]
    assert len({two.digest, *others}) == 4


def test_several_gates_in_one_come_back(steering, tmp_path):
    push = steering.pushes[0]
    rows = torch.stack([push.gate.w[1], 2 * push.gate.w[1]]).expand(3, 2, -1)
    three = Steering((Push(Gate({1: rows}, 0.25, 0.75), push.directions),), (5,))
    three.save_pretrained(tmp_path)
    again = Steering.from_pretrained(tmp_path)
    gate = again.pushes[0].gate
    assert torch.equal(gate.w[1], rows)
    assert (gate.gates, gate.read_outs) == (3, 6)
    assert again.digest == three.digest


@pytest.mark.parametrize(("version", "operation"), [(1, "sum"), (2, "max sum")])
def test_a_file_of_an_earlier_version_is_still_read(steering, folder, version, operation):
    path = folder / "steering.json"
    content = json.loads(path.read_text())
    content["version"] = version
    content["operation"] = content["operation"].replace("mean max sum", operation)
    path.write_text(json.dumps(content))
    assert Steering.from_pretrained(folder).digest == steering.digest


def test_the_digest_sees_every_change(steering):
    seen = {steering.digest, steering.scaled(2).digest}
    push = steering.pushes[0]
    for gate in (
        Gate({0: push.gate.w[1]}, 0.25, 0.75),
        Gate(push.gate.w, 0.3, 0.75),
        Gate({1: push.gate.w[1] + 1e-3}, 0.25, 0.75),
    ):
        seen.add(Steering((Push(gate, push.directions, push.strength),), steering.reply_start).digest)
    seen.add(Steering(steering.pushes, (5, 6)).digest)
    assert len(seen) == 6


def test_saving_again_replaces_whole_files_and_leaves_no_scraps(steering, folder):
    steering.scaled(2).save_pretrained(folder)
    assert Steering.from_pretrained(folder).pushes[0].strength == pytest.approx(2.8)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "steering.json", "steering.safetensors"]


def test_a_crash_between_the_two_files_is_noticed(steering, folder, tmp_path):
    steering.scaled(2).save_pretrained(tmp_path / "other")
    changed = Steering(
        (Push(Gate({1: steering.pushes[0].gate.w[1] * 2}, 0.25, 0.75), steering.pushes[0].directions),), (5,)
    )
    changed.save_pretrained(tmp_path / "third")
    os.replace(tmp_path / "third" / "steering.safetensors", folder / "steering.safetensors")
    with pytest.raises(SteeringError, match="damaged or belongs to another"):
        Steering.from_pretrained(folder)


def _edit(folder, **changes):
    path = folder / "steering.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "steering.json").unlink(), "cannot be read"),
        (lambda f: (f / "steering.json").write_text("{"), "no JSON"),
        (lambda f: (f / "steering.json").write_text("[]"), "no AlphaSteer artefact"),
        (lambda f: _edit(f, format="peft"), "no AlphaSteer artefact"),
        (lambda f: _edit(f, version=99), "format version 99, newer"),
        (lambda f: _edit(f, reply_start="x"), "damaged at reply_start"),
        (lambda f: _edit(f, surprise=1), "damaged at surprise"),
        (lambda f: (f / "steering.safetensors").unlink(), "no readable steering.safetensors"),
        (lambda f: (f / "steering.safetensors").write_bytes(pickle.dumps({"w": 1})), "damaged"),
        (lambda f: os.truncate(f / "steering.safetensors", 100), "damaged"),
    ],
)
def test_damaged_foreign_newer_and_pickled_files_are_refused(folder, break_it, message):
    break_it(folder)
    with pytest.raises(SteeringError, match=message):
        Steering.from_pretrained(folder)


def test_vectors_and_names_that_do_not_match_are_refused(folder):
    content = json.loads((folder / "steering.json").read_text())
    content["pushes"][0]["layers"].append(9)
    _edit(folder, pushes=content["pushes"])
    with pytest.raises(SteeringError, match=r"push\.0\.direction\.9"):
        Steering.from_pretrained(folder)


def test_a_folder_that_cannot_be_written_is_named(steering, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SteeringError, match="cannot be written"):
        steering.save_pretrained(tmp_path / "file" / "inside")


def test_a_full_disk_leaves_the_old_artefact(steering, folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SteeringError, match="No space left"):
        steering.scaled(2).save_pretrained(folder)
    monkeypatch.undo()
    assert Steering.from_pretrained(folder).digest == steering.digest
    assert len(list(folder.iterdir())) == 3


def test_neither_folder_nor_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SteeringError, match="neither a folder nor a repository"):
        Steering.from_pretrained("nobody/nothing-of-the-kind")


def test_another_model_is_refused_with_the_difference_named(steering, any_model):
    if type(any_model).__name__ == "LlamaForCausalLM":
        steering.attach(any_model).remove()
        return
    with pytest.raises(SteeringError, match="differs: architecture is"):
        steering.attach(any_model)
    steering.attach(any_model, strict=False).remove()


@pytest.mark.parametrize(
    ("gate", "directions", "message"),
    [
        (({3: torch.ones(4)},), {1: torch.ones(4)}, "cannot push layer 1 below"),
        (({1: torch.ones(4)},), {}, "at least one layer"),
        (({1: torch.ones(4)},), {1: torch.ones(5)}, "one length"),
        (({1: torch.ones(4)},), {1: torch.full((4,), torch.nan)}, "not finite"),
        (({1: torch.ones(4)}, 0.5), {1: torch.ones(4)}, "a threshold and a ceiling, or neither"),
        (({1: torch.ones(4)}, 0.5, 0.5), {1: torch.ones(4)}, "must lie below"),
    ],
)
def test_steerings_that_make_no_sense_cannot_be_built(gate, directions, message):
    with pytest.raises(SteeringError, match=message):
        Push(Gate(*gate), directions)


def test_the_hub_gets_a_whole_artefact_and_gives_it_back(steering, tmp_path, monkeypatch):
    """The Hub itself is out of reach of a test: its client's two calls copy to and from a folder here."""
    import shutil

    import huggingface_hub

    class Folder(huggingface_hub.HfApi):
        def create_repo(self, repo_id, **kwargs):
            assert kwargs["private"]

        def upload_folder(self, *, repo_id, folder_path, **kwargs):
            shutil.copytree(folder_path, tmp_path / repo_id)
            return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repository, **_: str(tmp_path / repository))
    assert steering.push_to_hub("someone/safe", private=True).endswith("someone/safe")
    assert Steering.from_pretrained("someone/safe").digest == steering.digest
    card = (tmp_path / "someone/safe/README.md").read_text()
    assert card.startswith("---\nlibrary_name: alphasteer\n")
    assert "strength" in card
