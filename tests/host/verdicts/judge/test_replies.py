"""Replies outlive the process, whenever it is killed."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rlvr_jax.host.verdicts.judge.replies import Replies, reply_key


def test_a_reply_is_found_again(tmp_path):
    path = tmp_path / "new" / "replies.jsonl"
    one = Replies(path)
    one.put("a", "YES\n\u89e3")
    assert one.get("a") == "YES\n\u89e3" and one.get("b") is None
    one.close()
    two = Replies(path)
    assert len(two) == 1 and two.get("a") == "YES\n\u89e3"
    two.close()


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_torn_last_line_costs_itself_only(cut, tmp_path):
    path = tmp_path / "replies.jsonl"
    one = Replies(path)
    one.put("a", "YES")
    one.put("b", "NO")
    one.close()
    whole = path.read_bytes()
    os.truncate(path, len(whole) - min(cut, 28))
    two = Replies(path)
    assert two.get("a") == "YES"
    two.put("c", "1")
    two.close()
    three = Replies(path)
    assert (three.get("a"), three.get("c")) == ("YES", "1")
    three.close()
    assert path.read_bytes().startswith(whole[: len(whole) - min(cut, 28)]), "only appended"


def test_lines_of_others_are_passed_over(tmp_path):
    path = tmp_path / "replies.jsonl"
    path.write_bytes(b'[1]\n{"name": 1, "reply": "x"}\n\xff\n{"name": "a", "reply": "YES"}\n')
    replies = Replies(path)
    assert len(replies) == 1 and replies.get("a") == "YES"
    replies.close()


WRITE = """
import itertools, sys
from pathlib import Path
from rlvr_jax.host.verdicts.judge.replies import Replies
replies = Replies(Path(sys.argv[1]))
for i in itertools.count(len(replies)):
    replies.put(str(i), "YES" * 50)
    print(i, flush=True)
"""


def test_what_was_put_survives_kill_9(tmp_path):
    path = tmp_path / "replies.jsonl"
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(20):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        last = max([last, *(int(i) for i in process.stdout.read().split()[:-1])])
        process.wait()
        replies = Replies(path)
        assert all(replies.get(str(i)) == "YES" * 50 for i in range(last + 1))
        replies.close()


def test_threads_do_not_mix_their_lines(tmp_path):
    path = tmp_path / "replies.jsonl"
    replies = Replies(path)

    def put(thread):
        for i in range(100):
            replies.put(f"{thread}/{i}", "x" * 200)
            time.sleep(0)

    threads = [threading.Thread(target=put, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    replies.close()
    again = Replies(path)
    assert len(again) == 800
    again.close()


def test_a_name_depends_on_all_that_a_reply_depends_on():
    base = {"model": "m", "messages": [{"role": "user", "content": "q"}], "temperature": 0.5}
    names = {reply_key(base, 0), reply_key(base, 1), reply_key(base | {"model": "n"}, 0)}
    names |= {reply_key(base | {"temperature": 0.6}, 0), reply_key(base | {"messages": []}, 0)}
    assert len(names) == 5
    assert reply_key(dict(reversed(base.items())), 0) in names, "the order of keys says nothing"


def test_a_reply_that_was_cut_off_stays_so(tmp_path) -> None:
    path = tmp_path / "r.jsonl"
    replies = Replies(path)
    replies.put("a", "whole")
    replies.put("b", "a part", cut=True)
    replies.close()
    again = Replies(path)
    assert [again.is_cut(name) for name in "ab"] == [False, True] and again.get("b") == "a part"
    again.close()
