"""The judge behind an endpoint, against a server of our own on this machine."""

import http.server
import json
import threading
import time

import pytest

from rlvr_jax.config import JudgeConfig
from rlvr_jax.host.verdicts.judge import endpoint
from rlvr_jax.host.verdicts.judge.endpoint import Endpoint, JudgeError

KEY = "sk-secret-of-the-test"
RECORD = {"question": "2 + 2?", "reference": "4"}


class Server(http.server.ThreadingHTTPServer):
    """Says YES where the final step is the reference; `script` holds other things to do first."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen, self.times, self.script = [], [], []
        self.lock, self.now, self.most = threading.Lock(), 0, 0
        self.slow = 0.0
        self.say = lambda body, number: "YES" if final(body) == "4" else "NO"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_):
        """A client that has gone is part of the tests."""


def final(body):
    return body["messages"][0]["content"].rpartition("Final step: ")[2]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.seen.append((self.path, dict(self.headers), body))
            server.times.append(time.monotonic())
            server.now += 1
            server.most = max(server.most, server.now)
            number = len(server.seen)
            act = server.script.pop(0) if server.script else None
        time.sleep(server.slow)
        with server.lock:
            server.now -= 1
        if act is not None:
            act(self)
            return
        content = server.say(body, number)
        told = {"choices": [{"message": {"role": "assistant", "content": content}}]}
        answer(self, 200, json.dumps(told).encode())


def answer(handler, code, data=b"", **headers):
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def status(code, data=b"no", **headers):
    return lambda handler: answer(handler, code, data, **headers)


def hang_up(handler):
    handler.connection.close()


def drip(handler):
    """A byte now and then, without an end."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST", 0.01)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def config(server, **changes):
    fields = dict(kind="endpoint", url=server.url, model="big", key_env="JUDGE_KEY", seconds=5.0)
    return JudgeConfig(**fields | changes)


def ask(server, path, answers, **changes):
    """Votes, and the counts of the judge."""
    stopped = changes.pop("stopped", bool)
    judge = Endpoint(config(server, **changes), path / "replies.jsonl", stopped)
    try:
        return judge(answers, [RECORD] * len(answers)), judge.counts
    finally:
        judge.close()


def test_votes_come_in_the_order_of_the_answers(server, tmp_path):
    answers = ["4", "5", "4", "", "six", "4<|im_end|>"]
    votes, counts = ask(server, tmp_path, answers)
    assert votes == [[1], [0], [1], [0], [0], [0]]
    assert counts["requests"] == 3, "equal ones are asked once, what is wrong anyway never"
    path, headers, body = server.seen[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body["model"] == "big" and body["temperature"] == 0 and body["max_tokens"] == 8


def test_texts_are_completed_as_often_as_asked(server, tmp_path):
    server.say = lambda body, number: f"{body['messages'][0]['content']}!"
    cfg = config(server, temperature=1.0, tokens=99, max_requests=5)
    judge = Endpoint(cfg, tmp_path / "replies.jsonl")
    try:
        assert judge.complete(["one", "two"], 2) == [["one!", "one!"], ["two!", "two!"]]
        assert judge.complete(["two", "three"], 2) == [["two!", "two!"], ["three!", None]]
    finally:
        judge.close()
    assert judge.counts["requests"] == 5
    _, _, body = server.seen[0]
    assert body["max_tokens"] == 99 and body["temperature"] == 1.0


def test_fields_of_the_body_can_be_added_and_taken_out(server, tmp_path):
    more = {"max_tokens": None, "max_completion_tokens": 99, "seed": 1}
    ask(server, tmp_path, ["4"], body=more)
    body = server.seen[0][2]
    assert "max_tokens" not in body and body["max_completion_tokens"] == 99 and body["seed"] == 1


@pytest.mark.parametrize(
    "act",
    [
        *(status(code) for code in (408, 429, 500, 502, 503)),
        status(200, b"no json"),
        status(200, b"{}"),
        status(200, b'{"choices": []}'),
        hang_up,
    ],
)
def test_a_failure_that_may_pass_is_tried_again(act, server, tmp_path):
    server.script = [act, act]
    votes, counts = ask(server, tmp_path, ["4"])
    assert votes == [[1]] and counts["requests"] == 3 and counts["retries"] == 2


@pytest.mark.parametrize("act", [drip, lambda handler: time.sleep(4)])
def test_a_slow_reply_is_given_up_and_tried_again(act, server, tmp_path):
    server.script = [act]
    began = time.monotonic()
    votes, counts = ask(server, tmp_path, ["4"], seconds=0.3)
    assert votes == [[1]] and counts["retries"] == 1 and time.monotonic() - began < 4


def test_a_server_that_asks_for_time_gets_it(server, tmp_path):
    server.script = [status(429, Retry_After="0.5")]
    ask(server, tmp_path, ["4"])
    assert server.times[1] - server.times[0] >= 0.5
    assert endpoint._seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0 == endpoint._seconds(None)
    assert endpoint._seconds("1e9") == endpoint.MOST and endpoint._seconds("-1") == 0


def test_after_all_tries_there_is_no_verdict(server, tmp_path):
    server.script = [status(500)] * 3
    votes, counts = ask(server, tmp_path, ["4"], retries=2)
    assert votes == [[None]] and counts["failed"] == 1 and counts["requests"] == 3
    votes, _ = ask(server, tmp_path, ["4"])
    assert votes == [[1]], "a failure is not stored"


def test_one_refused_request_costs_itself_only(server, tmp_path):
    server.script = [status(400), None]
    votes, counts = ask(server, tmp_path, ["4", "5"], concurrency=1)
    assert votes == [[None], [0]] and counts["requests"] == 2, "not tried again"


@pytest.mark.parametrize("code", [401, 403, 404, 307])
def test_what_cannot_succeed_ends_at_once(code, server, tmp_path):
    other = Server()
    server.script = [status(code, KEY.encode(), Location=other.url)] * 50
    with pytest.raises(JudgeError, match=f"HTTP {code}") as caught:
        ask(server, tmp_path, [str(i) for i in range(50)], concurrency=2)
    assert len(server.seen) <= 4 and KEY not in str(caught.value)
    assert not other.seen, "the key goes to no other host"
    other.shutdown()
    other.server_close()


def test_a_server_that_is_not_there_is_not_asked_forever(server, tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "LOST", 3)
    server.script = [status(503, b"overloaded")] * 99
    with pytest.raises(JudgeError, match="3 requests in a row .* HTTP 503: overloaded"):
        ask(server, tmp_path, [str(i) for i in range(50)], retries=1, concurrency=1)
    assert len(server.seen) == 6


@pytest.mark.parametrize("content", [None, "", "perhaps", "YES or NO", ["YES"]])
def test_a_reply_that_is_no_verdict_gives_none_and_is_counted(content, server, tmp_path):
    server.say = lambda body, number: content
    votes, counts = ask(server, tmp_path, ["4"])
    assert votes == [[None]] and counts["unreadable"] == 1 and counts["failed"] == 0


def test_votes_are_replies_of_their_own(server, tmp_path):
    server.say = lambda body, number: ("YES", "NO", "what?")[number % 3]
    votes, counts = ask(server, tmp_path, ["4"], votes=3, temperature=1.0, concurrency=1)
    assert votes == [[0, None, 1]] and counts["requests"] == 3


def test_a_rerun_asks_only_for_what_is_missing(server, tmp_path):
    first, _ = ask(server, tmp_path, ["4", "5"])
    again, counts = ask(server, tmp_path, ["4", "5", "6"])
    assert again[:2] == first and counts["requests"] == 1
    _, counts = ask(server, tmp_path, ["4"], model="bigger")
    assert counts["requests"] == 1, "another judge"


def test_a_budget_leaves_out_the_last_answers(server, tmp_path):
    votes, counts = ask(server, tmp_path, ["4", "5", "6", ""], max_requests=2)
    assert votes == [[1], [0], [], [0]] and len(server.seen) == 2
    votes, _ = ask(server, tmp_path, ["4", "5", "6"], max_requests=2)
    assert votes == [[1], [0], []] and len(server.seen) == 2, "spent is spent, also by a rerun"
    votes, _ = ask(server, tmp_path, ["4", "5", "6"], max_requests=3)
    assert votes == [[1], [0], [0]] and len(server.seen) == 3


def test_tries_count_against_the_budget(server, tmp_path):
    server.script = [status(500)] * 99
    votes, counts = ask(server, tmp_path, ["4"], max_requests=3, retries=9)
    assert counts["requests"] == 3 and votes == [[None]]


def test_requests_begin_at_the_rate(server, tmp_path):
    ask(server, tmp_path, list("abcdef"), per_minute=600.0)
    assert server.times[-1] - server.times[0] >= 0.45


def test_requests_are_under_way_together_but_not_too_many(server, tmp_path):
    server.slow = 0.1
    ask(server, tmp_path, [str(i) for i in range(12)], concurrency=4)
    assert 2 <= server.most <= 4


def test_a_signal_ends_the_asking(server, tmp_path):
    server.slow = 0.05
    votes, _ = ask(
        server,
        tmp_path,
        [str(i) for i in range(100)],
        stopped=lambda: len(server.seen) >= 5,
        concurrency=2,
    )
    assert len(server.seen) <= 8 and [None] in votes


def test_the_key_is_written_nowhere(server, tmp_path):
    server.say = lambda body, number: f"{KEY} YES"
    ask(server, tmp_path, ["4"])
    assert all(KEY not in path.read_text() for path in tmp_path.iterdir())
    server.script = [status(404, KEY.encode())]
    with pytest.raises(JudgeError) as caught:
        ask(server, tmp_path, ["5"])
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": "localhost:8000"}, "must be an address"),
        ({"url": "file:///etc/passwd"}, "must be an address"),
        ({"url": "https://me:pass@host/v1"}, "no user"),
        ({"url": "https://host/v1?key=3"}, "or query"),
        ({"url": "http://far.example/v1"}, "use https"),
        ({"body": {"stream": True}}, "cannot change stream"),
        ({"key_env": "NOT_SET"}, "the environment variable NOT_SET holds no key"),
    ],
)
def test_what_is_refused_before_anything_is_sent(changes, words, server):
    with pytest.raises(JudgeError, match=words):
        endpoint.check_endpoint_config(config(server, **changes))


def test_a_broken_key_is_not_shown(server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "abc\u00e9xyz")
    with pytest.raises(JudgeError) as caught:
        endpoint.check_endpoint_config(config(server))
    assert "xyz" not in str(caught.value)


def test_a_server_without_a_key_gets_none(server, tmp_path):
    ask(server, tmp_path, ["4"], key_env="")
    assert "Authorization" not in server.seen[0][1]
