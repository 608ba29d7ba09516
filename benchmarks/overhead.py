"""What a steered ``generate`` costs: paired runs, alternating, on the same prompts with the same number of tokens."""

import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from alphasteer.models import load_model
from alphasteer.prompts import ChatTemplate, pad, starter_prompts
from alphasteer.steering import Steering
from benchmarks.common import table, write


def main(
    artefact: Annotated[str, typer.Argument(help="An artefact's folder.")],
    model: Annotated[str | None, typer.Option(help="The model, if it is elsewhere now.")] = None,
    rounds: Annotated[int, typer.Option(help="Pairs of runs.")] = 15,
    batch: Annotated[int, typer.Option(help="Prompts a run, half of them malicious.")] = 8,
    new_tokens: Annotated[int, typer.Option(help="Tokens of each reply.")] = 32,
) -> None:
    steering = Steering.from_pretrained(artefact)
    name = model or (steering.fitted_on.model_id if steering.fitted_on else "")
    loaded, tokenizer = load_model(name, device="cpu")
    half = batch // 2
    prompts = [*starter_prompts("benign", "test").prompts[:half], *starter_prompts("jailbreak", "test").prompts[:half]]
    ids, mask = pad(ChatTemplate(tokenizer).render_all(prompts), side="left", fill=tokenizer.pad_token_id)

    def run() -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            loaded.generate(
                ids, attention_mask=mask, do_sample=False, min_new_tokens=new_tokens, max_new_tokens=new_tokens
            )
        return time.perf_counter() - started

    def steered() -> float:
        with steering.attach(loaded):
            return run()

    run(), steered()
    seconds: dict[str, list[float]] = {"unsteered": [], "steered": []}
    for number in range(rounds):
        order = [("unsteered", run), ("steered", steered)]
        for arm, measure in order if number % 2 else reversed(order):
            seconds[arm].append(measure())
    ratios = [s / u for s, u in zip(seconds["steered"], seconds["unsteered"], strict=True)]
    medians = {arm: statistics.median(values) for arm, values in seconds.items()}
    ratio = statistics.median(ratios)
    rows = [*((arm, s) for arm, s in medians.items()), ("median ratio of pairs", ratio)]
    table(
        f"generate, {len(prompts)} prompts, {new_tokens} tokens, {rounds} pairs, {Path(name).name}",
        ("", "seconds"),
        rows,
    )
    write("overhead", {"model": Path(name).name, "medians": medians, "ratio": ratio, "ratios": ratios})


if __name__ == "__main__":
    typer.run(main)
