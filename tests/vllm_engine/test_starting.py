"""What is not right does not start, and says why: never an engine that answers unsteered."""

import json
from pathlib import Path

import pytest
from engines import engine, save_steering, save_tiny

pytest.importorskip("vllm", reason="needs the environment of make test-vllm")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def refused(capfd, source, folder, steering, **options):
    with pytest.raises(Exception, match=r".") as raised:
        engine(source, folder, steering, **options)
    said = capfd.readouterr()
    return f"{raised.value} {said.out} {said.err}"


def test_a_gate_that_reads_something_else_than_in_the_self_test(tiny, tmp_path, capfd):
    steering = save_steering(tiny, tmp_path, wrong=0.05)
    assert "The self-test failed: gate" in refused(capfd, tiny, tmp_path, steering)


def test_another_artefact_than_the_one_that_keys_the_caches(tiny, tmp_path, capfd):
    other = save_steering(tiny, tmp_path / "other", seed=1)
    save_steering(tiny, tmp_path / "first")
    assert "is not the artefact that this engine was configured for" in refused(capfd, tiny, tmp_path / "first", other)


def test_an_artefact_that_is_gone(tiny, tmp_path, capfd):
    steering = save_steering(tiny, tmp_path)
    assert "gone" in refused(capfd, tiny, tmp_path / "gone", steering)


def test_another_chat_template(tiny, tmp_path, capfd):
    steering = save_steering(tiny, tmp_path / "steering")
    model = Path(save_tiny(tmp_path / "model"))
    template = model / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert "chat_template is" in refused(capfd, str(model), tmp_path / "steering", steering)


def test_another_model(tiny, tmp_path, capfd):
    steering = save_steering(tiny, tmp_path / "steering")
    model = Path(save_tiny(tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert "layers is 3 instead of 4" in refused(capfd, str(model), tmp_path / "steering", steering)


def test_an_option_that_was_not_tried(tiny, tmp_path, capfd):
    steering = save_steering(tiny, tmp_path)
    assert "prompt embeddings" in refused(capfd, tiny, tmp_path, steering, enable_prompt_embeds=True)
    assert "adapters" in refused(capfd, tiny, tmp_path, steering, enable_lora=True)


def test_without_the_plug_in_there_is_no_such_load_format(tiny, tmp_path, capfd, monkeypatch):
    steering = save_steering(tiny, tmp_path)
    monkeypatch.setenv("VLLM_PLUGINS", "another")
    assert "alphasteer" in refused(capfd, tiny, tmp_path, steering)
