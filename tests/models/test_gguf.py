"""GGUF files: written as llama.cpp's tools do, read, and found again by what was fitted on them."""

import gguf
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

from alphasteer.models import fingerprint, load_model

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    part, kind = name.removeprefix("model.layers.").rsplit(".", 1)
    if not name.startswith("model.layers."):
        return f"{NAMES[part]}.{kind}"
    layer, _, module = part.partition(".")
    return f"blk.{layer}.{NAMES[module]}.{kind}"


@pytest.fixture
def file(tmp_path):
    model, tokenizer, path = tiny_model("Llama"), tiny_tokenizer(), tmp_path / "tiny.gguf"
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    known = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    tokens = [*known, "ab", *(f"<unused{n}>" for n in range(len(known) + 1, config.vocab_size))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(gguf_name(name), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_loaded_and_found_again(file):
    model, tokenizer = load_model(str(file))
    again, _ = load_model(fingerprint(model, tokenizer).model_id)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.isfinite(model(ids).logits).all()
    assert torch.equal(again(ids).logits, model(ids).logits)
