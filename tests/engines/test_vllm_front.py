"""What stands before vLLM's endpoints, over HTTP, with an application behind it that waits as vLLM's does."""

import asyncio
import json
import socket
import threading
import time
from types import SimpleNamespace

import httpx
import pytest

from alphasteer.engines.protocol import Limits
from alphasteer.engines.vllm.settings import GATES, KEY, STRENGTH
from alphasteer.engines.vllm.translation import tell, telling, translate, watched

uvicorn = pytest.importorskip("uvicorn")
starlette = pytest.importorskip("starlette")

from starlette.applications import Starlette  # noqa: E402 starlette comes with an extra
from starlette.responses import JSONResponse, Response, StreamingResponse  # noqa: E402
from starlette.routing import Route  # noqa: E402

from alphasteer.engines.vllm.front import API_KEY, LIMITS, Front  # noqa: E402

SLOWEST = 0.6


class Behind:
    """Stands for vLLM: it gives back what came, waits until its client goes, or streams until then."""

    def __init__(self):
        self.left = threading.Event()
        self.app = Starlette(
            routes=[
                Route("/v1/back", self.back, methods=["GET", "POST"]),
                Route("/v1/waits", self.waits, methods=["POST"]),
                Route("/v1/streams", self.streams, methods=["POST"]),
                Route("/invocations", self.back, methods=["POST"]),
                Route("/health", self.back),
            ]
        )

    async def back(self, request):
        return Response(await request.body(), 200, media_type="application/json")

    async def waits(self, request):
        await request.body()
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.left.set()
        return JSONResponse(None)

    async def streams(self, request):
        await request.body()

        async def events():
            try:
                while True:
                    yield "data: {}\n\n"
                    await asyncio.sleep(0.05)
            finally:
                self.left.set()

        return StreamingResponse(events(), media_type="text/event-stream")


@pytest.fixture
def front(monkeypatch):
    servers = []

    def start(key=None, **limits):
        monkeypatch.setenv(LIMITS, Limits(**limits).model_dump_json())
        monkeypatch.delenv(API_KEY, raising=False)
        if key is not None:
            monkeypatch.setenv(API_KEY, key)
        behind = Behind()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(Front(behind.app), port=port, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return behind, f"http://127.0.0.1:{port}"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join()


def test_the_page_is_there_and_other_requests_pass_as_they_are(front):
    _, url = front()
    page = httpx.get(url)
    assert page.status_code == 200
    assert "<title>AlphaSteer</title>" in page.text
    body = json.dumps({"words": "föhn" * 1000}).encode()
    assert httpx.post(f"{url}/v1/back", content=body).content == body
    assert httpx.get(f"{url}/v1/back").status_code == 200


def test_the_key_is_asked_for_wherever_something_is_to_be_had(front):
    _, url = front("a-long-secret")
    for path in ("/v1/back", "/invocations"):
        for given in ({}, {"Authorization": "Bearer another"}, {"Authorization": "a-long-secret"}):
            refused = httpx.post(url + path, json={}, headers=given)
            assert refused.status_code == 401
            assert "bearer token" in refused.json()["error"]["message"]
        assert httpx.post(url + path, json={}, headers={"Authorization": "Bearer a-long-secret"}).status_code == 200
    assert httpx.get(f"{url}/v1/back").status_code == 401
    assert httpx.get(url).status_code == 200
    assert httpx.get(f"{url}/health").status_code == 200


def test_bodies_are_bounded_whether_or_not_they_say_their_size(front):
    _, url = front(most_bytes=2048)
    pieces = (b"x" * 512 for _ in range(8))
    for content in (b"x" * 4096, pieces):
        refused = httpx.post(f"{url}/v1/back", content=content)
        assert refused.status_code == 413
        assert "larger than 2048 bytes" in refused.json()["error"]["message"]
    assert httpx.post(f"{url}/v1/back", content=b"x" * 2048).status_code == 200


def test_a_body_that_does_not_come_is_given_up(front):
    _, url = front(seconds=SLOWEST)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"POST /v1/back HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in client.recv(4096).split(b"\r\n")[0]


def test_a_reply_that_takes_too_long_is_given_up_and_what_writes_it_is_told(front):
    behind, url = front(seconds=SLOWEST)
    late = httpx.post(f"{url}/v1/waits", json={}, timeout=10)
    assert late.status_code == 504
    assert "took too long" in late.json()["error"]["message"]
    assert behind.left.wait(5)


def test_a_stream_that_takes_too_long_ends_with_the_reason(front):
    behind, url = front(seconds=SLOWEST)
    begun = time.monotonic()
    with httpx.stream("POST", f"{url}/v1/streams", json={}, timeout=10) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert time.monotonic() - begun < SLOWEST + 5
    assert lines[0] == "data: {}"
    assert "took too long" in json.loads(lines[-1].removeprefix("data: "))["error"]["message"]
    assert behind.left.wait(5)


def test_a_client_that_goes_is_gone_for_what_stands_behind_too(front):
    behind, url = front()
    with httpx.stream("POST", f"{url}/v1/streams", json={}, timeout=10) as stream:
        next(stream.iter_lines())
    assert behind.left.wait(5)


def asked(wishes, **own):
    return SimpleNamespace(model_extra={} if wishes is None else {KEY: wishes}, vllm_xargs=own or None)


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        (None, None),
        ({"gates": True}, {GATES: 1}),
        ({"strength": 0.5}, {GATES: 0, STRENGTH: 0.5}),
        ({"strength": 0, "gates": True}, {GATES: 1, STRENGTH: 0.0}),
    ],
)
def test_wishes_are_said_in_vllm_s_words(wishes, expected):
    request = asked(wishes)
    assert translate(request) is None
    assert request.vllm_xargs == expected


def test_wishes_join_what_the_request_says_in_vllm_s_words_itself():
    request = asked({"gates": True}, other=3)
    assert translate(request) is None
    assert request.vllm_xargs == {"other": 3, GATES: 1}


@pytest.mark.parametrize("wishes", [{"strength": "much"}, {"strength": float("nan")}, {"gate": True}, 3, [], "x"])
def test_wishes_that_are_none_are_refused_with_their_name(wishes):
    problem = translate(asked(wishes))
    assert problem is not None
    assert problem.startswith(KEY)
    where = f"{KEY}.{next(iter(wishes))}" if isinstance(wishes, dict) else KEY
    assert problem.startswith(f"{where}: ")
    assert problem.endswith(".")


def test_what_is_told_moves_into_the_reply_s_own_field():
    reply = SimpleNamespace(kv_transfer_params={KEY: {"strength": 1.0}, "another": 2})
    assert vars(tell(reply)) == {KEY: {"strength": 1.0}, "kv_transfer_params": {"another": 2}}
    assert tell(SimpleNamespace(kv_transfer_params={KEY: {}})).kv_transfer_params is None
    assert vars(tell(SimpleNamespace(kv_transfer_params=None))) == {"kv_transfer_params": None}
    assert vars(tell(SimpleNamespace(error="went wrong"))) == {"error": "went wrong"}, "an error is no reply"


def test_one_event_of_a_stream_carries_what_is_told():
    told = {}

    async def results():
        for given in (None, {KEY: {"strength": 1.0, "gates": []}}, {KEY: {"strength": 1.0, "gates": []}}):
            yield SimpleNamespace(kv_transfer_params=given)

    async def events():
        yield ": keep alive\n\n"
        async for _ in watched(results(), told, lambda result: result):
            yield 'data: {"choices": []}\n\n'
        yield "data: [DONE]\n\n"

    async def collect():
        return [event async for event in telling(events(), told)]

    found = asyncio.run(collect())
    own = [json.loads(event[6:]) for event in found if event.startswith("data: {")]
    assert own == [{"choices": []}, {"choices": [], KEY: {"strength": 1.0, "gates": []}}, {"choices": []}]
    assert (found[0], found[-1]) == (": keep alive\n\n", "data: [DONE]\n\n")
