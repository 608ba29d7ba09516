"""The model's thread: it takes the requests that wait, and writes their replies in one batch."""

import logging
import queue
import threading
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from alphasteer.engines.protocol import GateReport
from alphasteer.engines.server.jobs import Job
from alphasteer.errors import ReplyError
from alphasteer.prompts import pad
from alphasteer.replies.generating import filler_token
from alphasteer.steering import Attached, Steering

STOPPING = "The server is stopping; try again later."
GATHERING = 0.01
"""Seconds to wait for company once a request is there."""


class Engine:
    """A steered model and the jobs that wait for it.

    A batch is written to its end before the next one begins. What a job gets does not depend on who shares its batch:
    each row has its own strength, draws by its own seed, and ends by itself.
    """

    def __init__(self, model: Any, tokenizer: Any, steering: Steering, *, most_rows: int, most_waiting: int) -> None:
        self.model, self.tokenizer, self.steering = model, tokenizer, steering
        self._most_rows = most_rows
        self._waiting: queue.Queue[Job | None] = queue.Queue(most_waiting)
        self._attached = steering.attach(model)
        self._taking = True
        self._door = threading.Lock()  # nobody comes in while those that wait are turned away
        ends = model.generation_config.eos_token_id
        self._ends = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
        self._thread = threading.Thread(target=self._work, name="alphasteer-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._waiting.qsize()

    @property
    def alive(self) -> bool:
        """Whether jobs are being taken."""
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Take a job into the queue.

        Raises:
            ReplyError: if the queue is full, or the engine has stopped.
        """
        if not self.alive:
            raise ReplyError("The engine has stopped; start the server again.")
        with self._door:
            if not self._taking:
                raise ReplyError(STOPPING)
            try:
                self._waiting.put_nowait(job)
            except queue.Full as error:
                raise ReplyError("Too many requests are waiting; try again in a moment.") from error

    def turn_away(self) -> None:
        """Take no more, and tell those that wait; what is being written goes on."""
        with self._door:
            self._taking = False
            while True:
                try:
                    job = self._waiting.get_nowait()
                except queue.Empty:
                    return
                if job is not None:
                    job.emit(ReplyError(STOPPING))

    def close(self) -> None:
        """Turn away what waits, finish what is being written, and take the steering off."""
        self.turn_away()
        self._waiting.put(None)
        self._thread.join()
        self._attached.remove()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            jobs, stopping = self._gather(first)
            live = [job for job in jobs if not job.cancelled.is_set()]
            if live:
                self._run(live)
            if stopping:
                return

    def _gather(self, first: Job) -> tuple[list[Job], bool]:
        jobs = [first]
        while len(jobs) < self._most_rows:
            try:
                job = self._waiting.get(timeout=GATHERING)
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False

    def _run(self, jobs: list[Job]) -> None:
        try:
            self._write(jobs)
        except Exception as error:  # whatever a batch dies of, its clients must hear and the next must run
            logging.getLogger(__name__).exception("A batch of %d requests failed.", len(jobs))
            for job in jobs:
                if job.finish is None:
                    job.emit(error)

    @torch.inference_mode()
    def _write(self, jobs: list[Job]) -> None:
        filler = filler_token(self.tokenizer)
        penalty = self.model.generation_config.repetition_penalty or 1.0
        choosing = _Choosing(jobs, self._attached, self.tokenizer, self._ends, penalty)
        ids, mask = pad([job.prompt for job in jobs], side="left", fill=filler)
        self._attached.strength = torch.tensor([job.strength for job in jobs])
        self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            max_new_tokens=max(job.most_tokens for job in jobs),
            do_sample=False,  # each row's token is chosen by its own rules, in _Choosing
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=None,
            pad_token_id=filler,
            logits_processor=LogitsProcessorList([choosing]),
            stopping_criteria=StoppingCriteriaList([_Ended(jobs)]),
        )


class _Choosing(LogitsProcessor):
    """Chooses every row's token, hands it to its job, and leaves generate no other one."""

    def __init__(self, jobs: list[Job], attached: Attached, tokenizer: Any, ends: set[int], penalty: float) -> None:
        self.jobs, self.attached, self.tokenizer, self.ends, self.penalty = jobs, attached, tokenizer, ends, penalty
        self.first = True

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.first:
            self._read_gates()
            self.first = False
        chosen = torch.full_like(scores, float("-inf"))
        for row, job in enumerate(self.jobs):
            token = job.choose(self._penalised(scores[row], job)) if job.finish is None else int(scores[row].argmax())
            chosen[row, token] = 0.0
            if job.finish is None:
                job.take(token, self.tokenizer, self.ends)
        return chosen

    def _penalised(self, logits: Tensor, job: Job) -> Tensor:
        """By the model's own repetition penalty, of the row's own tokens: the batch's fillers are not its."""
        if self.penalty == 1.0:
            return logits
        own = torch.tensor([[*job.prompt, *job.tokens]], device=logits.device)
        penalised: Tensor = RepetitionPenaltyLogitsProcessor(self.penalty)(own, logits[None])[0]
        return penalised

    def _read_gates(self) -> None:
        """Keep what each gate read at the last reply start of each row."""
        reports: list[list[GateReport]] = [[] for _ in self.jobs]
        for reading in self.attached.last_gates:
            last = {int(row): place for place, row in enumerate(reading.rows)}
            if set(last) != set(range(len(self.jobs))):
                raise ReplyError("A prompt holds no reply start, so nothing would be steered.")
            for row, place in last.items():
                report = GateReport(reading.layer, float(reading.scores[place]), float(reading.values[place]))
                reports[row].append(report)
        for job, found in zip(self.jobs, reports, strict=True):
            job.gates = tuple(found)


class _Ended(StoppingCriteria):
    """Which rows have ended."""

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs = jobs

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.tensor([job.finish is not None for job in self.jobs], device=input_ids.device)
