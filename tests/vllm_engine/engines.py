"""Steered models for the real vLLM, and what transformers makes of the same prompts."""

import gc
import os
from dataclasses import replace

import torch
from conftest import tiny_model, tiny_tokenizer

from alphasteer.activations import with_self_test
from alphasteer.engines.vllm.settings import GATES, KEY, STRENGTH, ServingConfig, additional_config
from alphasteer.models import find_decoder, fingerprint, load_model
from alphasteer.prompts import ChatTemplate
from alphasteer.steering import Gate, Push, Steering

os.environ.update(
    HF_HUB_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    VLLM_LOGGING_LEVEL="WARNING",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
)
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
CHATS = (
    "Hi",
    "What is the capital of France?",
    "Tell me a story about a goat that climbs a very high mountain and meets a bear who is fond of honey and of maps.",
    "2+2=",
    "Write a haiku about rain.",
    "How do I bake bread?",
)
SECOND_TURN = (
    {"role": "user", "content": "Good morning, what can you do?"},
    {
        "role": "assistant",
        "content": "Hello! I can tell you about goats, bears, maps, bread and rain. Goats climb, bears fish, maps lead "
        "the way, bread rises, and rain falls on all of them, on some days more and on others less. What shall it be?",
    },
    {"role": "user", "content": "And which of these do you like best, if you had to choose only one?"},
)
"""A reply start in the middle: blocks behind it hold what steering made of it, and are cached; what comes from there
ends before the last of the prompt, which the gates read."""
TALKS = [[{"role": "user", "content": chat}] for chat in CHATS] + [list(SECOND_TURN)]
STRENGTHS = [0.0, 1.0, 0.5, 1.0, 2.0, 1.0, 0.5]
TOP = 100
"""So many logits of every token are compared."""


def save_tiny(folder):
    """A random model whose widths vLLM's attention takes, on two ranks too."""
    model = tiny_model("Llama", hidden_size=128, intermediate_size=256, num_key_value_heads=4)
    tokenizer = tiny_tokenizer()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_steering(source, folder, *, wrong=0.0, seed=0, prompt_end=False):
    """Two gates, one over several layers and one normalised, that change most replies; with its self-test.

    Args:
        wrong: by how much the stored self-test is off.
        seed: draws the vectors.
        prompt_end: a third one, two gates of two read-outs in one, reads the prompt's end.
    """
    model, tokenizer = load_model(source, device="cpu")
    decoder = find_decoder(model)
    draw, depth = torch.Generator().manual_seed(seed), len(decoder)

    def vectors(layers, size, *shape):
        shape = shape or (decoder.hidden_size,)
        return {layer: torch.randn(*shape, generator=draw) * size for layer in layers}

    template, width = ChatTemplate(tokenizer), decoder.hidden_size
    low, high = max(1, depth // 4), depth // 2
    streams = 0.01 if depth > 8 else 0.02  # reads of order one, so that gates stand between shut and open
    pushes = [
        Push(Gate(vectors((low, high), streams), -3.0, 1.0), vectors(range(high, depth - 1), 2.5)),
        Push(Gate(vectors((low,), 0.1), -4.0, 4.0, normalised=True), vectors((depth - 1,), 1.0), 0.5),
    ]
    if prompt_end:
        pushes.append(Push(Gate(vectors((low, high), streams, 2, 2, 2 * width), -3.0, 3.0), vectors((depth - 2,), 1.5)))
    steering = Steering(
        tuple(pushes),
        template.reply_start,
        prompt_end=template.prompt_end if prompt_end else None,
        fitted_on=fingerprint(model, tokenizer),
    )
    steering = with_self_test(model, tokenizer, steering)
    scores = [score + wrong for score in steering.record["self_test"]["scores"]]
    record = {**steering.record, "self_test": {**steering.record["self_test"], "scores": scores}}
    steering = replace(steering, record=record)
    steering.save_pretrained(folder)
    return steering


def engine(source, folder, steering, **options):
    """vLLM on a steered model: float32, prompts in pieces, strengths by request."""
    from vllm import LLM

    config = ServingConfig(folder=str(folder), digest=steering.digest, allow_strength=True, highest_strength=2.0)
    defaults = {
        "load_format": "alphasteer",
        "additional_config": additional_config(config),
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 512,
        "max_num_batched_tokens": 64,
        "max_num_seqs": 8,
        "max_logprobs": TOP,
        "logprobs_mode": "raw_logits",
        "block_size": 32,
        "async_scheduling": False,
    }
    return LLM(source, **{**defaults, **options})


def ask(llm, strengths, tokens=30):
    """Greedy replies: prompt tokens, strength, reply tokens and their top logits, prompt tokens found in the cache."""
    from vllm import SamplingParams

    wishes = [{STRENGTH: strength, GATES: 1} for strength in strengths]
    params = [
        SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, logprobs=TOP, extra_args=wish)
        for wish in wishes
    ]
    found = []
    outputs = llm.chat(TALKS, params, use_tqdm=False)
    for output, strength in zip(outputs, strengths, strict=True):
        reply = output.outputs[0]
        told = output.kv_transfer_params[KEY]
        assert told["strength"] == max(strength, 0.0)
        assert len(told["gates"]) == 3
        logits = [{token: entry.logprob for token, entry in place.items()} for place in reply.logprobs]
        cached = output.num_cached_tokens
        found.append((list(output.prompt_token_ids), strength, list(reply.token_ids), logits, cached))
    return found


def replies(source, folder, **options):
    """What ``compared`` says of replies from a cold cache, from a warm one, and over the blocks of other strengths."""
    steering = save_steering(source, folder, prompt_end=True)
    llm = engine(source, folder, steering, **options)
    try:
        cold = ask(llm, STRENGTHS)
        warm = ask(llm, STRENGTHS)
        others = ask(llm, STRENGTHS[::-1])  # over the other strengths' blocks, which are not theirs
    finally:
        del llm
        gc.collect()
    assert [found[2] for found in cold] == [found[2] for found in warm]
    prompt, marker = cold[-1][0], list(steering.reply_start)
    first = next(n + len(marker) for n in range(len(prompt)) if prompt[n : n + len(marker)] == marker)
    assert warm[-1][4] > first, "blocks that steering changed come from the cache"
    assert others[-1][4] <= first, "and not those of another strength"
    return compared(source, steering, [*cold, *warm, *others])


def compared(source, steering, found):
    """Against transformers: the share of tokens that are equal, how far logits lie apart, and the push's own mark."""
    model, _ = load_model(source, device="cpu")
    same, worst, mark = [], 0.0, 0.0
    for prompt, strength, reply, logits, _ in found:
        ids = torch.tensor([prompt + reply[:-1]])
        with torch.inference_mode():
            plain = model(ids).logits[0, len(prompt) - 1 :]
            with steering.attach(model, strength=strength):
                ours = model(ids).logits[0, len(prompt) - 1 :]
        same += [a == b for a, b in zip(ours.argmax(-1).tolist(), reply, strict=True)]
        gaps = [abs(value - float(ours[i, token])) for i, place in enumerate(logits) for token, value in place.items()]
        worst, mark = max(worst, *gaps), max(mark, float((ours - plain).abs().max()))
    return sum(same) / len(same), len(same), worst, mark
