"""Finding the decoder layers by structure, and refusing what cannot be steered."""

import pytest
import torch
import transformers
from conftest import tiny_model, tiny_tokenizer

from alphasteer.errors import ModelError
from alphasteer.models import check_decoder, find_decoder, fingerprint, load_model, loaded_digest, model_fields


def test_layers_are_found_and_proven_in_every_architecture(any_model):
    decoder = find_decoder(any_model)
    assert len(decoder) == 4
    assert decoder.hidden_size == 32
    check_decoder(any_model, decoder)


def test_a_vision_tower_of_equal_depth_is_not_taken_for_the_decoder():
    text = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "head_dim": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    decoder = find_decoder(model)
    assert decoder.layers[0] is model.model.language_model.layers[0]
    check_decoder(model, decoder)


def test_encoders_encoder_decoders_and_headless_models_are_refused():
    small = {
        "vocab_size": 320,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    bert = transformers.BertForMaskedLM(transformers.BertConfig(**small)).eval()
    with pytest.raises(ModelError, match="causal decoders"):
        check_decoder(bert, find_decoder(bert))
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=320, d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8)
    )
    with pytest.raises(ModelError, match="encoder-decoder"):
        find_decoder(t5)
    headless = tiny_model("Llama").model
    with pytest.raises(ModelError, match="next-token logits"):
        check_decoder(headless, find_decoder(headless))
    with pytest.raises(ModelError, match="no config"):
        find_decoder(torch.nn.Linear(2, 2))


def test_a_model_left_in_training_mode_is_refused():
    model = tiny_model("GPT2").train()
    with pytest.raises(ModelError, match="eval"):
        check_decoder(model, find_decoder(model))


def test_a_fingerprint_knows_fine_tunes_and_templates_but_not_precision(tokenizer):
    model = tiny_model("Llama")
    one = fingerprint(model, tokenizer)
    assert one.differences(fingerprint(tiny_model("Llama").to(torch.bfloat16), tokenizer)) == []
    with torch.no_grad():
        model.model.norm.weight.add_(0.1)
    assert [d.split()[0] for d in one.differences(fingerprint(model, tokenizer))] == ["weights"]
    other = tiny_tokenizer(tokenizer.chat_template + " ")
    assert [d.split()[0] for d in one.differences(fingerprint(tiny_model("Llama"), other))] == ["chat_template"]
    assert model_fields(tiny_model("Llama", num_hidden_layers=3))["layers"] == 3


def test_a_shelf_tells_models_apart_that_differ_in_their_matrices_alone():
    """Merged adapters leave norms as they are: one's replies were once taken for the other's."""
    model = tiny_model("Llama")
    before = loaded_digest(model)
    assert before == loaded_digest(tiny_model("Llama"))
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1.001)
    assert before != loaded_digest(model)


def test_loading_a_folder_and_what_is_said_of_a_bad_one(tmp_path, tokenizer):
    tiny_model("Llama").save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    model, again = load_model(str(tmp_path / "m"))
    assert model.dtype == torch.float32
    assert not model.training
    assert again.chat_template == tokenizer.chat_template
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(tmp_path / "empty"))
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_model(str(tmp_path / "m"), device="cuda")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(tmp_path / "m"))
    with pytest.raises(ModelError, match="float8"):
        load_model(str(tmp_path / "m"), dtype="float8")
