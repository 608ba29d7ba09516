"""What steering costs in vLLM: two engines alive together, one steered, runs alternating; ``make`` does not run it.

In the environment of ``make test-vllm``: ``.venv-vllm/bin/python -m benchmarks.vllm_overhead DIR [--no-eager]``.
"""

import statistics
import time
from typing import Annotated, Any

import typer

from alphasteer.engines.vllm.settings import LOAD_FORMAT, ServingConfig, additional_config
from alphasteer.prompts import starter_prompts
from alphasteer.steering import Steering
from alphasteer.steering.loading import base_model
from benchmarks.common import table, write


def main(
    artefact: Annotated[str, typer.Argument(help="An artefact's folder.")],
    model: Annotated[str | None, typer.Option(help="The model, if it is elsewhere now.")] = None,
    eager: Annotated[bool, typer.Option(help="Without torch.compile and CUDA graphs.")] = True,
    rounds: Annotated[int, typer.Option(help="Pairs of runs.")] = 9,
    batch: Annotated[int, typer.Option(help="Requests a run, half of them malicious.")] = 8,
    new_tokens: Annotated[int, typer.Option(help="Tokens of each reply.")] = 64,
    steered_first: Annotated[bool, typer.Option(help="Start the steered engine before the other one.")] = False,
) -> None:
    from vllm import LLM, SamplingParams

    steering = Steering.from_pretrained(artefact)
    config = additional_config(ServingConfig(folder=artefact, digest=steering.digest))
    common: dict[str, Any] = {"enforce_eager": eager, "max_model_len": 1024, "max_num_seqs": batch}
    common |= {"async_scheduling": False, "enable_prefix_caching": False}
    source = base_model(steering, artefact, model)
    steered = {"load_format": LOAD_FORMAT, "additional_config": config}
    arms = [("unsteered", {}), ("steered", steered)]
    engines = {arm: LLM(source, **common, **more) for arm, more in (reversed(arms) if steered_first else arms)}
    half = batch // 2
    prompts = [*starter_prompts("benign", "test").prompts[:half], *starter_prompts("jailbreak", "test").prompts[:half]]
    chats = [[dict(turn) for turn in prompt.messages] for prompt in prompts]
    params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)

    def run(arm: str) -> float:
        started = time.perf_counter()
        engines[arm].chat(chats, params, use_tqdm=False)
        return time.perf_counter() - started

    for arm in engines:
        run(arm)
    seconds: dict[str, list[float]] = {arm: [] for arm in engines}
    for number in range(rounds):
        for arm in engines if number % 2 else reversed(engines):
            seconds[arm].append(run(arm))
    ratios = [u / s for u, s in zip(seconds["unsteered"], seconds["steered"], strict=True)]
    rates = {arm: batch * new_tokens / statistics.median(values) for arm, values in seconds.items()}
    name = "vllm_overhead_eager" if eager else "vllm_overhead_compiled"
    name += "_steered_first" if steered_first else ""
    write(name, {"rates": rates, "ratios": ratios, "median": statistics.median(ratios), "batch": batch})
    rows = [[arm, rate] for arm, rate in rates.items()]
    rows.append(["steered / unsteered, median of pairs", statistics.median(ratios)])
    table(f"vLLM, {'eager' if eager else 'compiled'}, {batch} requests of {new_tokens} tokens", ["", "tokens/s"], rows)


if __name__ == "__main__":
    typer.run(main)
