"""Replies in OpenAI's words: whole, or as the chunks of a stream."""

from typing import Any

from alphasteer.engines.protocol import report_of
from alphasteer.engines.server.jobs import Job, Piece
from alphasteer.engines.server.requests import Request


class Written:
    """One reply as its client wants it; the field ``alphasteer`` holds what the gates read, if asked for."""

    def __init__(self, head: dict[str, Any], asked: Request, job: Job, chatting: bool) -> None:
        self.head, self.asked, self.job, self.chatting = head, asked, job, chatting

    def opening(self) -> dict[str, Any]:
        """The first chunk of a stream, without text."""
        return self._chunk({"role": "assistant", "content": ""} if self.chatting else "", None)

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """The chunks of a piece: its text and, with the last one, the usage if it is wanted."""
        delta: Any = {"content": piece.text} if self.chatting else piece.text
        chunk = self._chunk(delta, piece.finish)
        if piece.finish is None:
            return [chunk]
        found = [{**chunk, **self._own(piece)}]
        if self.asked.stream_options.include_usage:
            found.append({**self.head, "object": chunk["object"], "choices": [], "usage": self._usage(piece)})
        return found

    def whole(self, text: str, last: Piece) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chatting else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": last.finish}
        return {**self.head, "choices": [choice], "usage": self._usage(last), **self._own(last)}

    def _chunk(self, said: Any, finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, ("delta" if self.chatting else "text"): said, "logprobs": None, "finish_reason": finish}
        kind = "chat.completion.chunk" if self.chatting else "text_completion"
        return {**self.head, "object": kind, "choices": [choice]}

    def _usage(self, last: Piece) -> dict[str, int]:
        prompt = len(self.job.prompt)
        return {"prompt_tokens": prompt, "completion_tokens": last.tokens, "total_tokens": prompt + last.tokens}

    def _own(self, last: Piece) -> dict[str, Any]:
        if not self.asked.alphasteer.gates:
            return {}
        return {"alphasteer": report_of(self.job.strength, last.gates)}
