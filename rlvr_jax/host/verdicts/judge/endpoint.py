"""This judge sends concurrent requests to an OpenAI-compatible endpoint and stores the replies.

After a temporary failure (429, 5xx, a timeout, a lost connection) the request is repeated with
exponential backoff and jitter.  A failure that would repeat (wrong key, model or address) ends the
stage.  Replies are stored as they arrive, so a rerun sends only the missing requests.  The API key
comes from the environment and goes into one header only, never into a file or message.
"""

import functools
import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from rlvr_jax.config import JudgeConfig
from rlvr_jax.host.text.wording import load_wording
from rlvr_jax.host.verdicts.agreement import majority
from rlvr_jax.host.verdicts.judge import Record, Votes, words
from rlvr_jax.host.verdicts.judge.replies import Replies, reply_key

FIRST, LONGEST = 1.0, 60.0  # upper limits of the first pause and of any pause, in seconds
MOST = 120.0  # the longest Retry-After that is respected, in seconds
LOST = 10  # after this many failed requests in a row, the judge gives up
REPLY = 1 << 20  # bytes of the longest reply
AGAIN = {408, 409, 425, 429}  # temporary failures, as is 5xx
FATAL = {401, 403, 404, 405}  # failures of every request, as is 3xx
OURS = {"model", "messages", "stream", "n"}  # keys that the config's `body` must not change


class Reply(NamedTuple):
    """A Reply is what a model behind an endpoint wrote."""

    text: str
    finished: bool  # not cut off by the limit of tokens


class JudgeError(ValueError):
    """An endpoint cannot be used with the config; the message says what to change."""


class _Again(Exception):
    """A temporary failure."""

    def __init__(self, reason: str, after: float = 0.0):
        super().__init__(reason)
        self.after = after  # seconds that the server asks to wait


class _Refused(Exception):
    """A permanent failure that concerns only this request."""


class _Stay(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which would carry the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def check_endpoint_config(cfg: JudgeConfig) -> None:
    """Refuse a config with which every request would fail, without sending one.

    Raises:
      JudgeError: the address, the body or the key cannot be used.
    """
    url = urllib.parse.urlsplit(cfg.url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise JudgeError("judge.url must be an address such as http://localhost:8000/v1")
    if url.username or url.password or url.query or url.fragment:
        raise JudgeError("judge.url must hold no user, password or query: use judge.key_env")
    if taken := OURS & cfg.body.keys():
        raise JudgeError(f"judge.body cannot change {', '.join(sorted(taken))}: leave them out")
    near = url.hostname in ("localhost", "127.0.0.1", "::1")
    if _key(cfg) and url.scheme == "http" and not near:
        raise JudgeError(
            "judge.url is http and would show the key to everybody on the way: use https, or "
            'judge.key_env="" for a server that needs no key'
        )


def _key(cfg: JudgeConfig) -> str:
    key = os.environ.get(cfg.key_env, "").strip() if cfg.key_env else ""
    if cfg.key_env and not key:
        raise JudgeError(
            f"the environment variable {cfg.key_env} holds no key for {cfg.url}: set it, or "
            'judge.key_env="" for a server that needs none'
        )
    if not (key.isascii() and key.isprintable()):
        raise JudgeError(f"the key in {cfg.key_env} has characters that no key has: set it again")
    return key


class Endpoint:
    """An `Endpoint` is a judge that asks the model behind `cfg.url`.

    `counts` has the numbers of requests, retries, failures and unreadable replies.
    """

    def __init__(self, cfg: JudgeConfig, path: Path, stopped: Callable[[], object] = bool):
        """Open the file of replies at `path`; no request begins once `stopped()` is true.

        Raises:
          JudgeError: the config cannot be used.
        """
        check_endpoint_config(cfg)
        self._cfg, self._stopped, self._key = cfg, stopped, _key(cfg)
        self._open = urllib.request.build_opener(_Stay).open
        self._replies = Replies(path)
        self._spent, self._lost = len(self._replies), 0
        self._next = 0.0  # earliest time of the next request
        self._ended: JudgeError | None = None
        self._reason = ""  # why the last request failed
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter(requests=0, retries=0, failed=0, unreadable=0)

    def __call__(self, answers: Sequence[str], records: Sequence[Record]) -> list[Votes]:
        """Return the votes on each answer; an empty list for answers beyond the budget.

        Raises:
          JudgeError: further requests would fail.
        """
        bodies = [self._body(a, r) for a, r in zip(answers, records, strict=True)]
        names, unasked = self._ask(bodies, self._cfg.votes)
        return [self._votes(several, unasked) for several in names]

    def complete(self, texts: Sequence[str], count: int) -> list[list[str | None]]:
        """Return `count` replies to each text, which is sent as a user's message.

        A reply is None if its request failed or was beyond the budget.

        Raises:
          JudgeError: further requests would fail.
        """
        bodies = [self._request([{"role": "user", "content": text}]) for text in texts]
        names, _ = self._ask(bodies, count)
        return [[self._replies.get(name) for name in several] for several in names]

    def chat(
        self, chats: Sequence[Sequence[Any]], count: int, temperature: float
    ) -> list[list[Reply | None]]:
        """Return `count` replies to each conversation, drawn at a temperature.

        A reply is None if its request failed or was beyond the budget.

        Raises:
          JudgeError: further requests would fail.
        """
        bodies = [self._request(chat, temperature) for chat in chats]
        names, _ = self._ask(bodies, count)
        return [[self._reply(name) for name in several] for several in names]

    def _reply(self, name: str) -> Reply | None:
        text = self._replies.get(name)
        return None if text is None else Reply(text, not self._replies.is_cut(name))

    def _ask(
        self, bodies: Sequence[dict[str, Any] | None], count: int
    ) -> tuple[list[list[str]], set[str]]:
        """Fetch the replies that are missing, `count` for each body.

        Returns the names of the replies to each body, and those that were beyond the budget.
        """
        names = [[reply_key(b, i) for i in range(count)] if b else [] for b in bodies]
        pairs = zip(names, bodies, strict=True)
        wanted = {name: body for several, body in pairs if body for name in several}
        missing = [name for name in wanted if self._replies.get(name) is None]
        # In order, so that a budget leaves out the same answers in every run.
        paid = missing[: self._left()] if self._cfg.max_requests else missing
        with ThreadPoolExecutor(self._cfg.concurrency) as threads:
            for _ in threads.map(lambda name: self._fetch(name, wanted[name]), paid):
                pass
        return names, set(missing) - set(paid)

    def close(self) -> None:
        """Close the file of replies."""
        self._replies.close()

    def _votes(self, names: list[str], unasked: set[str]) -> Votes:
        if not names:  # rejected without a request
            return [0] * self._cfg.votes
        replies = [self._replies.get(name) for name in names]
        said = words.judge_words(self._cfg)
        votes = [words.parse_vote(reply, said) for reply in replies]
        self.counts["unreadable"] += sum(
            vote is None for vote, reply in zip(votes, replies, strict=True) if reply is not None
        )
        return [] if majority(votes) is None and not unasked.isdisjoint(names) else votes

    def _body(self, answer: str, record: Record) -> dict[str, Any] | None:
        visible = words.visible_answer(answer)
        if visible is None:
            return None
        wording = load_wording(self._cfg.template)
        return self._request(wording.messages(words.values(record, visible, self._cfg)))

    def _request(self, messages: Sequence[Any], temperature: float | None = None) -> dict[str, Any]:
        cfg = self._cfg
        body = {
            "model": cfg.model,
            "messages": list(messages),
            "temperature": cfg.temperature if temperature is None else temperature,
            "max_tokens": cfg.tokens,
        }
        return {key: value for key, value in (body | cfg.body).items() if value is not None}

    # ---- one request -----------------------------------------------------------------------

    def _fetch(self, name: str, body: dict[str, Any]) -> None:
        """Request and store one reply; a failure leaves the reply missing."""
        for number in range(self._cfg.retries + 1):
            if not self._begin(number):
                return
            try:
                reply, cut = self._send(body)
            except _Again as error:
                self._note(error)
                if number < self._cfg.retries:
                    self._pause(error.after, min(LONGEST, FIRST * 2**number))
                continue
            except _Refused as error:  # too long, or against the server's policy
                self._note(error)
                break
            except JudgeError as error:
                self._ended = error
                raise
            with self._lock:
                self._lost = 0
            self._replies.put(name, reply, cut)
            return
        self._fail()

    def _fail(self) -> None:
        with self._lock:
            self.counts["failed"] += 1
            self._lost += 1
            lost = self._lost
        if lost >= LOST:
            self._ended = JudgeError(
                f"{lost} requests in a row to {self._cfg.url} failed, at last with: "
                f"{self._reason}; replies so far are kept"
            )
            raise self._ended

    def _note(self, error: Exception) -> None:
        self._reason = self._safe(str(error))

    def _begin(self, number: int) -> bool:
        """Wait until the request may begin; return False if no more requests may begin."""
        with self._lock:
            if self._ended or self._stopped() or not self._left():
                return False
            self._spent += 1
            self.counts["requests"] += 1
            self.counts["retries"] += number > 0
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + (60 / self._cfg.per_minute if self._cfg.per_minute else 0)
        return self._sleep(begin - now)

    def _left(self) -> int:
        most = self._cfg.max_requests
        return max(0, most - self._spent) if most else 1

    def _pause(self, after: float, longest: float) -> None:
        """Sleep for `after` plus a random part of `longest` seconds.

        With full jitter, clients that failed together do not return together.
        """
        if after:  # the server asks all requests to wait
            with self._lock:
                self._next = max(self._next, time.monotonic() + after)
        self._sleep(after + random.uniform(0, longest))

    def _sleep(self, seconds: float) -> bool:
        """Sleep; return False at once if the run stops meanwhile."""
        end = time.monotonic() + seconds
        while (remaining := end - time.monotonic()) > 0:
            if self._stopped() or self._ended:
                return False
            time.sleep(min(remaining, 0.2))
        return True

    def _send(self, body: dict[str, Any]) -> tuple[str, bool]:
        """Send a request and return the text of the reply, and whether it was cut off.

        Raises _Again, _Refused or JudgeError.
        """
        head = {"Content-Type": "application/json", "User-Agent": "rlvr-jax"}
        if self._key:
            head["Authorization"] = f"Bearer {self._key}"
        url = self._cfg.url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), head, method="POST")
        try:
            with self._open(request, timeout=self._cfg.seconds) as response:
                data = self._read(response)
            choice = json.loads(data)["choices"][0]
            content, cut = choice["message"]["content"], choice.get("finish_reason") == "length"
        except urllib.error.HTTPError as error:
            raise self._of_status(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise _Again(str(error) or type(error).__name__) from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise _Again("a reply that is not a chat completion") from None
        return self._safe(content) if isinstance(content, str) else "", cut

    def _read(self, response: Any) -> bytes:
        """Read a response, with limits on its size and on the total time."""
        end, data = time.monotonic() + self._cfg.seconds, b""
        for part in iter(functools.partial(response.read1, 65536), b""):
            data += part
            if len(data) > REPLY or time.monotonic() > end:
                raise TimeoutError("a reply that does not end")
        return data

    def _of_status(self, error: urllib.error.HTTPError) -> Exception:
        with error:
            code = error.code
            try:
                body = " ".join(error.read(2000).decode("utf-8", "replace").split())[:200]
            except (OSError, http.client.HTTPException):
                body = ""
        message = self._safe(f"HTTP {code}: {body}")
        if code in AGAIN or code >= 500:
            return _Again(message, _seconds(error.headers.get("Retry-After")))
        if code in FATAL or code < 400:
            return JudgeError(
                f"{self._cfg.url} refuses with {message}; correct judge.url, judge.model, or the "
                f"key in {self._cfg.key_env or 'judge.key_env'}"
            )
        return _Refused(message)

    def _safe(self, text: str) -> str:
        """Remove the key from a text, which a server may repeat in a reply."""
        return text.replace(self._key, "***") if self._key else text


def _seconds(header: str | None) -> float:
    """Return the seconds of a Retry-After header; 0 for a date, because clocks may disagree."""
    try:
        return min(MOST, max(0.0, float(header or 0)))
    except ValueError:
        return 0.0
