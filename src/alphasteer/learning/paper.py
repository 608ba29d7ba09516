"""The paper's form: a linear gate a layer, and a push chosen among some drawn by the seed.

Its gates act at every prompt position, so that no cache of the prompts can be kept and every try runs them anew.
"""

import random
from collections.abc import Sequence

from alphasteer.learning.evidence import Evidence
from alphasteer.learning.forms import between, gate_per_layer
from alphasteer.learning.gate_choice import GateCandidate
from alphasteer.learning.push_choice import Trial, choose_push
from alphasteer.learning.selected import FULL_REPLY, Selected
from alphasteer.learning.settings import FitSettings
from alphasteer.models import counted_tokens
from alphasteer.replies import PrefilledPrompts, refuses
from alphasteer.steering import Steering

STRENGTHS = (0.7, 1.0, 1.4)


def choose_paper_push(evidence: Evidence, singles: Sequence[GateCandidate]) -> Selected:
    """Pushes drawn by the seed, tried on a third of the held-out requests, the best of them on all.

    Args:
        singles: read-outs of single layers; each pushed layer gets its best one.
    """
    settings, template, directions = evidence.settings, evidence.template, evidence.directions

    def build(trial: Trial) -> Steering:
        vectors = between(directions[trial.rule], trial.first, trial.last)
        return gate_per_layer(singles, vectors, trial.strength, template.reply_start)

    def run(rendered: Sequence[Sequence[int]]) -> PrefilledPrompts:
        start = template.reply_start
        return PrefilledPrompts(evidence.model, evidence.tokenizer, rendered, start, evidence.report, reuse=False)

    shares = (max(1, settings.probes // 3), settings.probes)
    probes = [template.render_all(evidence.held_out(evidence.examples.malicious, share)) for share in shares]
    lowest = min(candidate.layer for candidate in singles)
    trials = possible_pushes(lowest, len(evidence.decoder), list(directions), settings)
    with counted_tokens(evidence.model) as tokens:
        rounds = [run(rendered) for rendered in probes]
        before = [refuses(reply.text) for reply in rounds[-1].replies(settings.reply_tokens)]
        kept = evidence.shelf.journal("finalists", [*evidence.same, probes, settings.reply_tokens])
        judged = choose_push(evidence.model, rounds, trials, build, settings, evidence.report, kept)
    full = len(trials) * sum(len(sequence) + FULL_REPLY for sequence in probes[-1])
    return Selected(build(judged[0]), judged, [], sum(before) / len(before), tokens.count, full)


def possible_pushes(gate_layer: int, layers: int, rules: Sequence[str], settings: FitSettings) -> list[Trial]:
    """``settings.trials`` pushes drawn by the seed.

    From all windows above the gate that begin in the lower half of what is there, at every strength.
    """
    if settings.window is not None:
        windows = [settings.window]
    else:
        step = max(1, round(layers / 24))
        firsts = range(gate_layer, max(gate_layer + 1, (gate_layer + layers) // 2), step)
        windows = [(a, b) for a in firsts for b in range(layers - 1, a, -step) if b - a >= min(4, layers // 4)]
        windows = windows or [(gate_layer, layers - 1)]
    strengths = STRENGTHS if settings.strength is None else (settings.strength,)
    pushes = [Trial(rule, first, last, s) for rule in rules for first, last in windows for s in strengths]
    return random.Random(settings.seed).sample(pushes, min(settings.trials, len(pushes)))
