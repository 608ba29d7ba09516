"""Replies of the real vLLM are those of transformers: strengths mixed, prompts in pieces, caches cold and warm."""

import gc
import shutil

import pytest
from engines import ask, compared, engine, save_steering, save_tiny

from alphasteer.models.demo_model import demo_model
from alphasteer.reporting import LogReporter

pytest.importorskip("vllm", reason="needs the environment of make test-vllm")

STRENGTHS = [0.0, 1.0, 0.5, 1.0, 2.0, 1.0]


def replies(source, folder, **options):
    steering = save_steering(source, folder)
    llm = engine(source, folder, steering, **options)
    try:
        cold = ask(llm, STRENGTHS)
        warm = ask(llm, STRENGTHS)
        others = ask(llm, STRENGTHS[::-1])  # over the other strengths' blocks, which are not theirs
    finally:
        del llm
        gc.collect()
    assert [found[2] for found in cold] == [found[2] for found in warm]
    return compared(source, steering, [*cold, *warm, *others])


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
