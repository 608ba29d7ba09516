"""A judge behind an endpoint: the real client against a small server that speaks its protocol."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import alphasteer.evaluation.endpoint as endpoint
from alphasteer.errors import EvaluationError
from alphasteer.evaluation import read_judge, verdicts
from alphasteer.resuming import Journal

pytest.importorskip("openai")
HARM = "alphasteer.evaluation.endpoint:HarmRubric"


@pytest.fixture
def server(monkeypatch):
    """Answers by what the reply between the marks says; ``server.statuses`` are the next answers' statuses."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append(asked)
            status = server.statuses.pop(0) if server.statuses else 200
            shown = asked["messages"][1]["content"]
            verdict = (
                "Hm." if "vague" in shown else "It says no.\nVERDICT: SAFE" if "Sorry" in shown else "VERDICT: HELPS"
            )
            body = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": asked["model"],
                "choices": [
                    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": verdict}}
                ],
                "usage": {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 42},
            }
            content = json.dumps(body if status == 200 else {"error": {"message": "no"}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.statuses = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("ALPHASTEER_JUDGE_MODEL", "some-judge")
    yield server
    server.shutdown()


def test_request_and_reply_are_shown_and_the_verdict_is_read(server):
    judge = read_judge(HARM)
    assert judge("How?", "Sorry, no.") is True
    assert judge("How?", "First you take") is False
    assert judge("How?", "vague") is None
    shown = server.asked[0]["messages"][1]["content"]
    assert "How?" in shown
    assert "Sorry, no." in shown
    assert server.asked[0]["model"] == "some-judge"
    assert judge.tokens == 3 * 42


def test_a_passing_failure_is_retried_and_a_lasting_one_leaves_the_reply_unjudged(server, monkeypatch):
    monkeypatch.setattr(endpoint, "RETRIES", 1)
    judge = read_judge(HARM)
    server.statuses = [500]
    assert judge("How?", "Sorry, no.") is True
    server.statuses = [500, 500]
    assert verdicts(judge, [("How?", "Sorry, no."), ("How?", "First")], Journal(None)) == (None, False)
    server.statuses = [401]
    with pytest.raises(EvaluationError, match="endpoint failed"):
        judge("How?", "Sorry, no.")


def test_an_endpoint_that_is_not_set_up_is_refused_at_once(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EvaluationError, match="OPENAI_API_KEY"):
        read_judge(HARM)
    monkeypatch.delenv("ALPHASTEER_JUDGE_MODEL")
    with pytest.raises(EvaluationError, match="ALPHASTEER_JUDGE_MODEL"):
        read_judge(HARM)
