"""Tiny random models of many architectures, a tiny chat tokenizer, steerings made by hand, and a browser."""

import shutil

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from alphasteer.learning.readings import Activations, Examined
from alphasteer.models import find_decoder, fingerprint, load_model
from alphasteer.prompts import ChatTemplate, Prompt
from alphasteer.reporting import LogReporter
from alphasteer.steering import Gate, Push, Steering

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}")
VOCABULARY = 320

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ARCHITECTURES = {
    "Llama": {},
    "Mistral": {"sliding_window": 16},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Gemma2": {"head_dim": 8, "sliding_window": 16},
    "Gemma3Text": {"head_dim": 8, "sliding_window": 16},
    "Phi3": {},
    "Olmo2": {},
    "GPTNeoX": {},
    "GPT2": {"n_positions": 512},
    "Mixtral": _EXPERTS,
    "Qwen3Moe": {**_EXPERTS, "head_dim": 8},
}
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
CAUSAL_LM = {"Gemma3Text": "Gemma3ForCausalLM", "GPT2": "GPT2LMHeadModel"}


def tiny_model(architecture: str, **changes):
    torch.manual_seed(0)
    config_class = getattr(transformers, f"{architecture}Config")
    model_class = getattr(transformers, CAUSAL_LM.get(architecture, f"{architecture}ForCausalLM"))
    config = config_class(**{**_COMMON, **ARCHITECTURES[architecture], **changes})
    model = model_class(config).eval()
    with torch.no_grad():  # the tiny default initialization would leave nearly nothing to steer
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    return model


def tiny_tokenizer(template: str = CHATML):
    """Bytes as tokens, plus the specials of ChatML: every text is tokenized, no file is needed."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="<|im_end|>", pad_token="<pad>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = template
    return tokenizer


class Listener(LogReporter):
    """Remembers what it was told."""

    def __init__(self):
        self.said, self.tracked = [], []

    def say(self, message):
        self.said.append(message)

    def track(self, items, description, total):
        self.tracked.append(description)
        return super().track(items, description, total)


def let_letters_refuse(patch, *modules, every=2):
    """A random model writes no language: let the sum of a reply's letters decide whether it refuses, or answers."""

    def refuses(text):
        return sum(map(ord, text)) % every == 0

    for module in modules:
        patch.setattr(f"alphasteer.{module}.refuses", refuses)
        patch.setattr(f"alphasteer.{module}.answers", lambda text: not refuses(text))


def hand_made(model, marker, *, positions="reply_start", strength=1.0, threshold=None, ceiling=None, seed=1):
    """One gate at layer 1 that drives layers 1 to 3, or a linear gate a layer for the paper's form."""
    generator = torch.Generator().manual_seed(seed)
    width = find_decoder(model).hidden_size

    def vector():
        return torch.randn(width, generator=generator)

    if positions == "prompt":
        pushes = tuple(Push(Gate({n: vector() / 10}), {n: vector()}, strength) for n in (1, 2, 3))
    else:
        pushes = (Push(Gate({1: vector()}, threshold, ceiling), {n: vector() * 3 for n in (1, 2, 3)}, strength),)
    return Steering(pushes, tuple(marker), positions)


def two_sorts(count, seed):
    """Malicious prompts of two sorts that lie far apart, both in one source; benign ones around zero."""
    generator = torch.Generator().manual_seed(seed)
    malicious = torch.randn(2 * count, 12, generator=generator)
    malicious[:count, 0] += 12
    malicious[count:, 1] += 12
    benign = torch.randn(400, 12, generator=generator)
    held_out = torch.randn(400, 12, generator=generator)

    def one(fit, held_out):
        return Activations({3: fit}, {3: held_out})

    return Examined({"b": one(benign, held_out)}, {"m": one(malicious, malicious)})


@pytest.fixture(params=ARCHITECTURES)
def any_model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def llama():
    return tiny_model("Llama")


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def sequences(tokenizer):
    """Rendered prompts of several lengths."""
    texts = ["Hi", "Tell me a story about a goat", "2+2", "x" * 60, "Why?"]
    return ChatTemplate(tokenizer).render_all([Prompt.of(text) for text in texts])


@pytest.fixture(scope="session")
def steered_folder(tmp_path_factory):
    """A tiny model in a folder, and beside it a steering of it that opens on everything."""
    folder = tmp_path_factory.mktemp("engines")
    writing = tiny_model("Llama", max_position_embeddings=4096, tie_word_embeddings=False)
    with torch.no_grad():
        writing.lm_head.weight[94:] = 0.0  # what is left are the printable characters: replies are text
    writing.save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    model, tokenizer = load_model(str(folder / "model"), "cpu", "float32")
    marker = ChatTemplate(tokenizer).reply_start
    made = hand_made(model, marker, threshold=-1e6, ceiling=-1e5)
    Steering(made.pushes, made.reply_start, fitted_on=fingerprint(model, tokenizer)).save_pretrained(folder / "steered")
    return folder / "steered"


@pytest.fixture(scope="session")
def steered_parts(steered_folder):
    """Model, tokenizer and steering, to reckon by hand what a harness should find."""
    model, tokenizer = load_model(str(steered_folder.parent / "model"), "cpu", "float32")
    return model, tokenizer, Steering.from_pretrained(steered_folder)


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


def sides_of_the_page(browser, url, words, *, meters):
    """The replies, steered and unsteered, that a server's page shows to words typed on a phone."""
    tab, errors = browser.new_page(viewport={"width": 400, "height": 800}), []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(url)
    tab.wait_for_function("document.getElementById('model').textContent")
    tab.fill("#words", words)
    tab.press("#words", "Enter")
    tab.wait_for_function(
        f"!document.getElementById('send').disabled && document.querySelectorAll('meter').length == {meters}"
    )
    assert tab.locator(".turn > p").inner_text() == words, "as it was typed: no markup"
    assert tab.locator(".turn b").count() == 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    assert errors == []
    return tab.locator(".side .text").all_inner_texts()
