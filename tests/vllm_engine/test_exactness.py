"""Replies of the real vLLM are those of transformers: strengths mixed, prompts in pieces, caches cold and warm."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from engines import replies, save_tiny

from alphasteer.models.demo_model import demo_model
from alphasteer.reporting import LogReporter

pytest.importorskip("vllm", reason="needs the environment of make test-vllm")

FOLDER = Path(__file__).parent


def check(share, count, worst, mark):
    assert count >= 300
    assert mark > 1, "the steering of this test must show"
    assert worst < 1e-3
    assert share >= 0.99


@pytest.mark.real_model
def test_a_real_model(tmp_path):
    check(*replies(demo_model(LogReporter()), tmp_path / "steering"))


def test_two_ranks(tmp_path):
    check(*replies(save_tiny(tmp_path / "model"), tmp_path / "steering", tensor_parallel_size=2))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled(tmp_path):
    check(*replies(save_tiny(tmp_path / "model"), tmp_path / "steering", enforce_eager=False))


@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
@pytest.mark.parametrize("scheduling", ["sync", "async"])
def test_the_second_model_runner(tmp_path, scheduling):
    path = [FOLDER / "interpreter", FOLDER, FOLDER.parent]
    environment = {**os.environ, "VLLM_USE_V2_MODEL_RUNNER": "1", "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [sys.executable, FOLDER / "second_runner.py", tmp_path, scheduling],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert found, done.stdout[-3000:] + done.stderr[-3000:]
    check(*json.loads(found[0].removeprefix("FOUND")))
