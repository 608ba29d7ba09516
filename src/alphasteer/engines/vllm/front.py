"""What stands before vLLM's endpoints: the page at ``/``, the key on every route, bounded bodies and waits."""

import asyncio
import json
import os

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alphasteer.engines.protocol import LATE, NO_KEY, Limits, Refusal, has_key, page, read_body

API_KEY = "VLLM_API_KEY"
"""Of the environment variable in which vLLM, too, looks for the key."""
LIMITS = "ALPHASTEER_LIMITS"
"""Of the environment variable that holds ``Limits`` as JSON: vLLM makes its middlewares without arguments."""
UNGUARDED = frozenset({"/", "/health", "/ping", "/metrics", "/version"})
"""What says nothing of any request. vLLM by itself asks for the key on ``/v1`` and a few others alone."""


class Front:
    """An ASGI middleware for vLLM's ``--middleware``; its limits and key come from the environment."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.limits = Limits.model_validate_json(os.environ.get(LIMITS, "{}"))
        self.key = os.environ.get(API_KEY, "")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by itself, or hand the request on."""
        answer: ASGIApp = self.app
        if scope["type"] in ("http", "websocket") and scope.get("method") != "OPTIONS":
            path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
            given = dict(scope["headers"]).get(b"authorization", b"")
            if path not in UNGUARDED and not has_key(given, self.key):
                answer = _no_reply(Refusal(401, NO_KEY))
            elif scope["type"] == "http" and path == "/" and scope["method"] in ("GET", "HEAD"):
                answer = HTMLResponse(page())
            elif scope["type"] == "http" and scope["method"] in ("POST", "PUT", "PATCH"):
                answer = self._bounded
        await answer(scope, receive, send)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(Request(scope, receive).stream(), self.limits)
        except ClientDisconnect:
            return
        except Refusal as refusal:
            answer: ASGIApp = _no_reply(refusal)
        else:
            answer = _Exchange(self.app, body, self.limits.seconds)
        await answer(scope, receive, send)


class _Exchange:
    """One request on its way through vLLM: when its time is over, vLLM is told that the client has gone."""

    def __init__(self, app: ASGIApp, body: bytes, seconds: float) -> None:
        self._app, self._body, self._seconds = app, body, seconds
        self._late = self._started = self._ended = self._streams = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        deadline = asyncio.get_running_loop().time() + self._seconds
        handed_on = False

        async def receive_in_time() -> Message:
            nonlocal handed_on
            if not handed_on:
                handed_on = True
                return {"type": "http.request", "body": self._body, "more_body": False}
            try:
                async with asyncio.timeout_at(deadline):
                    return await receive()
            except TimeoutError:
                self._late = True
                return {"type": "http.disconnect"}

        async def send_in_time(message: Message) -> None:
            if not self._late:  # later it is what vLLM says to a client that it believes gone
                self._note(message)
                await send(message)

        await self._app(scope, receive_in_time, send_in_time)
        if self._late and not self._started:
            await _no_reply(Refusal(504, LATE))(scope, receive, send)
        elif self._late and not self._ended:
            event = f"data: {json.dumps(Refusal(504, LATE).body)}\n\n" if self._streams else ""
            await send({"type": "http.response.body", "body": event.encode()})

    def _note(self, message: Message) -> None:
        self._started = True
        if message["type"] == "http.response.start":
            self._streams = dict(message["headers"]).get(b"content-type", b"").startswith(b"text/event-stream")
        else:
            self._ended = not message.get("more_body", False)


def _no_reply(refusal: Refusal) -> JSONResponse:
    return JSONResponse(refusal.body, refusal.status)
