"""The HTTP side: OpenAI's endpoints, health, metrics and the page; every refusal is one sentence."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from alphasteer.engines.protocol import LATE, NO_KEY, Refusal, card, has_key, page, read_body
from alphasteer.engines.server.engine import Engine
from alphasteer.engines.server.jobs import Job, Piece
from alphasteer.engines.server.metrics import Metrics
from alphasteer.engines.server.requests import ChatRequest, CompletionRequest
from alphasteer.engines.server.requests import Request as Asked
from alphasteer.engines.server.settings import ServerSettings
from alphasteer.engines.server.writing import Written
from alphasteer.errors import PromptError, ReplyError, first_problem
from alphasteer.models import context_length
from alphasteer.prompts import ChatTemplate, Prompt
from alphasteer.steering.positions import begins_a_reply

COLDEST = 1e-3
"""Below this temperature a reply is greedy: what is left to chance there, float32 cannot tell from none."""
GONE = "The client has gone."
Form = TypeVar("Form", bound=Asked)


def build_app(engine: Engine, settings: ServerSettings) -> FastAPI:
    """The application that serves an engine; the engine is closed with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(title="AlphaSteer", docs_url=None, redoc_url=None, lifespan=lifespan)
    metrics, template, made = Metrics(engine), ChatTemplate(engine.tokenizer), int(time.time())

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> JSONResponse:
        metrics.requests.labels(request.url.path, refusal.status).inc()
        return JSONResponse(refusal.body, refusal.status)

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok" if engine.alive else "stopped"}, 200 if engine.alive else 503)

    @app.get("/metrics")
    async def measured() -> Response:
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")

    @app.get("/", response_class=HTMLResponse)
    async def shown() -> str:
        return page()

    @app.get("/v1/models")
    async def models(request: Request) -> JSONResponse:
        check_key(request)
        shown = {"id": settings.name, "object": "model", "created": made, "owned_by": "alphasteer"}
        own = card(engine.steering, allow_strength=settings.allow_strength)
        return JSONResponse({"object": "list", "data": [{**shown, "alphasteer": own}]})

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await read(request, ChatRequest)
        messages = tuple(turn.message for turn in asked.messages)
        try:
            prompt = await asyncio.to_thread(template.render, Prompt("chat", messages))
        except PromptError as error:
            raise Refusal(400, str(error)) from error
        except Exception as error:
            raise Refusal(400, f"The chat template refuses these messages: {error}") from error
        return await answer(request, asked, prompt, chatting=True)

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        asked = await read(request, CompletionRequest)
        return await answer(request, asked, await asyncio.to_thread(encoded, asked.prompt), chatting=False)

    def encoded(prompt: str) -> list[int]:
        """A rendered prompt's tokens; what a template has put in front of it is not put there twice."""
        begun = bool(engine.tokenizer.bos_token) and prompt.startswith(engine.tokenizer.bos_token)
        ids: list[int] = engine.tokenizer.encode(prompt, add_special_tokens=not begun)
        return ids

    def check_key(request: Request) -> None:
        if not has_key(request.headers.get("authorization", "").encode("latin-1"), settings.api_key):
            raise Refusal(401, NO_KEY)

    async def read(request: Request, form: type[Form]) -> Form:
        check_key(request)
        try:
            body = await read_body(request.stream(), settings)
        except ClientDisconnect as error:
            raise Refusal(400, GONE) from error
        try:
            asked = form.model_validate(json.loads(body.decode("utf-8")))
        except ValidationError as error:
            where, problem = first_problem(error, "the request")
            raise Refusal(400, f"{where}: {problem}.") from error
        except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or nested too deep
            raise Refusal(400, f"The request is no JSON in UTF-8 ({error}); mend it.") from error
        if asked.model != settings.name:
            raise Refusal(404, f"There is no model {asked.model!r} here; ask for {settings.name!r}.")
        if asked.alphasteer.strength is not None and not settings.allow_strength:
            raise Refusal(400, "This server does not let requests set a strength; leave it out.")
        return asked

    def job_of(asked: Asked, prompt: list[int], emit: Any) -> Job:
        wanted = asked.max_completion_tokens or asked.max_tokens
        tokens = min(wanted or settings.most_tokens, settings.most_tokens)
        room = context_length(engine.model)
        if room is not None and len(prompt) + (wanted or 1) > room:
            raise Refusal(
                400,
                f"{len(prompt)} prompt tokens and {wanted or 1} of reply exceed the context of {room}; ask for less.",
            )
        tokens = tokens if room is None else min(tokens, room - len(prompt))
        if not begins_a_reply(prompt, engine.steering.reply_start):
            raise Refusal(
                400, "The prompt's last turn has no reply start, so nothing would be steered; use /v1/chat/completions."
            )
        strength, own = asked.alphasteer.strength, engine.model.generation_config
        sampling = bool(own.do_sample)  # what the request leaves open is as the model's makers wanted it
        temperature = asked.temperature if asked.temperature is not None else (own.temperature or 1.0) * sampling
        return Job(
            prompt,
            tokens,
            emit,
            temperature if temperature >= COLDEST else 0.0,
            asked.top_p if asked.top_p is not None else (own.top_p or 1.0) if sampling else 1.0,
            asked.seed,
            tuple(asked.stop or ()),
            1.0 if strength is None else min(max(strength, 0.0), settings.highest_strength),
        )

    async def answer(request: Request, asked: Asked, prompt: list[int], *, chatting: bool) -> Response:
        pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        job = job_of(asked, prompt, lambda piece: loop.call_soon_threadsafe(pieces.put_nowait, piece))
        try:
            engine.submit(job)
        except ReplyError as error:
            raise Refusal(503, str(error)) from error
        head = {
            "id": f"{'chatcmpl' if chatting else 'cmpl'}-{uuid.uuid4().hex}",
            "object": ("chat.completion" if chatting else "text_completion"),
            "created": int(time.time()),
            "model": settings.name,
        }
        written = Written(head, asked, job, chatting)
        coming = _coming(pieces, job, settings.seconds)
        if asked.stream:
            # The first piece, or what went wrong, before the status is sent; then starlette sees the client go.
            async with _while_there(request, job):
                first = await anext(coming)
            if isinstance(first, Exception):
                raise _failed(first)
            metrics.requests.labels(request.url.path, 200).inc()
            return StreamingResponse(_events(first, coming, written, job, metrics), media_type="text/event-stream")
        text = ""
        async with _while_there(request, job):
            async for piece in coming:
                if isinstance(piece, Exception):
                    raise _failed(piece)
                text += piece.text
                last = piece
        metrics.requests.labels(request.url.path, 200).inc()
        metrics.count(len(prompt), last)
        return JSONResponse(written.whole(text, last))

    return app


def _failed(error: Exception) -> Refusal:
    if isinstance(error, TimeoutError):
        return Refusal(504, LATE)
    if isinstance(error, ReplyError | PromptError):
        return Refusal(503, str(error))
    return Refusal(500, f"The model failed on this batch ({type(error).__name__}); try again.")


@asynccontextmanager
async def _while_there(request: Request, job: Job) -> AsyncIterator[None]:
    """A client that goes meanwhile, perhaps while its job still waits, takes it along."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        job.cancelled.set()
        job.emit(ReplyError(GONE))

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


async def _coming(
    pieces: "asyncio.Queue[Piece | Exception]", job: Job, seconds: float
) -> AsyncIterator[Piece | Exception]:
    """Pieces until the last one or an error; a job that takes too long, or whose client goes, is cancelled."""
    deadline = asyncio.get_running_loop().time() + seconds
    try:
        while True:
            # Around the wait alone: a timeout open across a yield would cancel the caller, wherever it then is.
            async with asyncio.timeout_at(deadline):
                piece = await pieces.get()
            yield piece
            if isinstance(piece, Exception) or piece.finish is not None:
                return
    except TimeoutError as error:
        yield error
    finally:
        job.cancelled.set()


async def _events(
    first: Piece | Exception,
    coming: AsyncIterator[Piece | Exception],
    written: Written,
    job: Job,
    metrics: Metrics,
) -> AsyncIterator[str]:
    """Server-sent events of a stream; an error in mid-stream is its last event."""
    try:
        yield _event(written.opening())
        piece: Piece | Exception | None = first
        while piece is not None:
            if isinstance(piece, Exception):
                yield _event(_failed(piece).body)
                return
            for chunk in written.chunks(piece):
                yield _event(chunk)
            if piece.finish is not None:
                metrics.count(len(job.prompt), piece)
            piece = await anext(coming, None)
        yield "data: [DONE]\n\n"
    finally:
        job.cancelled.set()  # the client may have gone


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
