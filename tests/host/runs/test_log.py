"""What a run tells: JSON for any reader, lines that can be cut back, text that stays text."""

import io
import json
import math
import time

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from rlvr_jax.host.runs import events, log


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ---- plain ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, expected",
    [
        (1, 1),
        (0.5, 0.5),
        ("text", "text"),
        (None, None),
        (True, True),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([1, 2]), [1, 2]),
        (np.array([[0.5], [np.nan]]), [[0.5], [None]]),
        (jnp.float32(2), 2.0),
        (jnp.arange(2), [0, 1]),
        (jnp.bfloat16(0.5), 0.5),
        (float("nan"), None),
        (float("inf"), None),
        (-math.inf, None),
        (np.float32("nan"), None),
        (jnp.float32("inf"), None),
        ([1.0, [float("nan")]], [1.0, [None]]),
        ({"a": {"b": np.float32("nan")}, "c": [np.int32(1)]}, {"a": {"b": None}, "c": [1]}),
    ],
)
def test_values_become_json(value, expected):
    found = log.plain(value)
    assert found == expected and type(found) is type(expected)
    json.dumps(found, allow_nan=False)


def test_tuples_become_json():
    assert log.plain({"x": (1.0, float("nan"))}) == {"x": [1.0, None]}


@pytest.mark.parametrize("value", [1e-10, 4.87654e-7, -3e-12])
def test_small_numbers_stay(value):
    assert math.isclose(log.plain(value), value, rel_tol=1e-5)


def test_json_files_are_whole_and_leave_no_part(tmp_path):
    path = tmp_path / "deep" / "file.json"
    log.write_json(path, {"x": np.float32("inf"), "y": "é"})
    assert json.loads(path.read_text()) == {"x": None, "y": "é"}
    log.write_json(path, {"x": 1})
    assert json.loads(path.read_text()) == {"x": 1}
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_a_json_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "file.json"
    log.write_json(path, {"x": 1})
    with pytest.raises(TypeError):
        log.write_json(path, {"x": object()})
    assert json.loads(path.read_text()) == {"x": 1}


# ---- metrics -------------------------------------------------------------------------------


def test_metrics_are_a_line_a_step(tmp_path):
    metrics = log.Metrics(tmp_path)
    metrics.write("sft", 1, {"loss": np.float32(0.5), "bins": np.arange(2), "bad": np.nan})
    assert lines(tmp_path) == [
        {"stage": "sft", "step": 1, "loss": 0.5, "bins": [0, 1], "bad": None}
    ]
    metrics.write("rl", 1, {"loss": 1.0})  # on disk without close
    assert [(row["stage"], row["step"]) for row in lines(tmp_path)] == [("sft", 1), ("rl", 1)]
    metrics.close()
    events = sorted(p.parent.name for p in (tmp_path / "tensorboard").rglob("*tfevents*"))
    assert events == ["rl", "sft"]


@pytest.mark.parametrize("harm", ["full", "no folder", "read-only later"])
def test_a_disk_that_takes_no_events_neither_hangs_nor_ends_a_run(
    tmp_path, monkeypatch, capsys, harm
):
    """tensorboardX's own writer waits for ever after the tenth event."""
    monkeypatch.setattr(log, "aside", Console(stderr=True, width=300))
    if harm == "no folder":
        (tmp_path / "tensorboard").write_text("a file")
    metrics = log.Metrics(tmp_path)
    if harm == "read-only later":
        metrics.write("sft", 0, {"loss": 1.0})
    if harm != "no folder":
        full = lambda *_: open("/dev/full", "ab", buffering=0)  # noqa: E731, SIM115
        monkeypatch.setattr(events.Events, "_open", full)
    for step in range(1, 60):
        metrics.write("rl", step, {"loss": 1.0, "reward": 0.5})
    metrics.close()
    assert [row["step"] for row in lines(tmp_path) if row["stage"] == "rl"] == [*range(1, 60)]
    assert capsys.readouterr().err.count("TensorBoard files are no longer written: ") == 1


def test_metrics_are_cut_back_to_a_checkpoint(tmp_path):
    metrics = log.Metrics(tmp_path)
    assert metrics.offset == 0
    metrics.write("sft", 1, {"loss": 1.0})
    kept = metrics.offset
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert kept == len(before)
    metrics.write("sft", 2, {"loss": 2.0})
    metrics.rewind(kept)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before and metrics.offset == kept
    metrics.write("sft", 2, {"loss": 3.0})
    assert [row["loss"] for row in lines(tmp_path)] == [1.0, 3.0]
    metrics.close()


def test_metrics_go_on_in_a_new_process(tmp_path):
    first = log.Metrics(tmp_path)
    first.write("sft", 1, {"loss": 1.0})
    kept = first.offset
    first.write("sft", 2, {"loss": 2.0})
    first.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"stage": "sft", "st')  # killed in the middle of a line
    again = log.Metrics(tmp_path)
    again.rewind(kept)
    again.write("sft", 2, {"loss": 2.0})
    again.close()
    assert [row["loss"] for row in lines(tmp_path)] == [1.0, 2.0]


def test_metrics_can_be_cut_back_to_nothing(tmp_path):
    metrics = log.Metrics(tmp_path)
    metrics.write("sft", 1, {"loss": 1.0})
    metrics.rewind(0)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"" and metrics.offset == 0
    metrics.close()


@pytest.mark.parametrize("harm", ["edited", "cut", "gone"])
def test_other_lines_than_those_that_were_written_are_refused(tmp_path, harm):
    metrics, path = log.Metrics(tmp_path), tmp_path / "metrics.jsonl"
    metrics.write("sft", 1, {"loss": 1.0})
    offset, digest = metrics.offset, metrics.digest
    metrics.write("sft", 2, {"loss": 2.0})
    metrics.check(offset, digest)
    metrics.rewind(offset, digest)
    assert metrics.digest == digest == log.Metrics(tmp_path).digest
    text = path.read_text()
    path.unlink() if harm == "gone" else path.write_text(
        text[:-1] if harm == "cut" else text.replace("1.0", "7.0")
    )
    with pytest.raises(ValueError, match=r"metrics\.jsonl has .*put metrics\.jsonl back"):
        metrics.check(offset, digest)
    metrics.close()


@pytest.mark.parametrize("line", ["x", "[1]", "3", "{}", "[" * 5000])
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"stage": "sft", "step": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2, is damaged"):
        log.Metrics(tmp_path).load_rows("sft")


def test_lines_that_are_gone_are_not_made_up(tmp_path):
    """metrics.jsonl was removed or shortened since the checkpoint."""
    metrics = log.Metrics(tmp_path)
    try:
        metrics.rewind(300)
    except Exception as error:  # refused in a sentence is fine too
        assert "metrics.jsonl" in str(error)
        return
    metrics.write("sft", 1, {"loss": 1.0})
    assert b"\0" not in (tmp_path / "metrics.jsonl").read_bytes()


# ---- the terminal --------------------------------------------------------------------------


@pytest.fixture
def screen(monkeypatch):
    """A wide terminal that is written into a string."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200, color_system="truecolor")
    monkeypatch.setattr(log, "console", console)
    return file


MARKUP = ["[red]x[/red]", "[/]", "[bold", "x]", "[link=http://a]b[/link]", "\\[red]", "a\\", "[1]"]


@pytest.mark.parametrize("text", MARKUP)
def test_markup_in_a_table_is_text(screen, text):
    log.table("rl step 1", ["question", "reward"], [[text, 0.5]])
    assert text in screen.getvalue() and "0.500" in screen.getvalue()


@pytest.mark.parametrize("text", MARKUP)
def test_markup_in_a_line_is_text(screen, text):
    log.say(f"{text} end")
    assert f"{text} end" in screen.getvalue()


@pytest.mark.parametrize("tell", [lambda text: log.table("t", ["a"], [[text]]), log.say])
def test_names_of_pictures_are_text(screen, tell):
    tell("ratio 1:heart:2")
    assert "1:heart:2" in screen.getvalue()


def test_control_characters_do_not_reach_the_terminal(screen):
    log.table("t", ["a"], [["x\x1b[31my\x07\r\x9bz\u202ew\x00"], ["two\nlines"]])
    shown = screen.getvalue()
    for ch in "\x07\r\x9b\u202e\x00":
        assert ch not in shown
    assert "\x1b[31m" not in shown and "two / lines" in shown


@pytest.mark.parametrize("where", ["console", "aside", "bar"])
def test_control_sequences_are_shown_as_text(where, monkeypatch):
    """A name in an error may hold anything: it neither acts on a terminal nor forges a line."""
    file = io.StringIO()
    monkeypatch.setattr(
        log, "aside" if where == "aside" else "console", Console(file=file, width=300)
    )
    text = "no \x1b]0;owned\x07\x1b[2J\r\x9b\u202e\u2028\ud800 file\nerror: all is well\t\u200d."
    if where == "bar":
        log.Bar("rl", 1, 0).step(1, {text: 1.0})
    else:
        (log.say if where == "console" else log.say_aside)(text)
    shown = file.getvalue()
    assert r"no \x1b]0;owned\x07\x1b[2J\r\x9b\u202e\u2028\ud800 file" in shown
    assert all(ch.isprintable() or ch in "\n\t\u200d" for ch in shown)
    assert "\nerror" not in shown and "error: all is well" in shown


def test_a_long_cell_is_cut(screen):
    log.table("t", ["a", "b"], [["x" * 500, "y" * 69]])
    assert "x" * 67 + "..." in screen.getvalue() and "x" * 68 not in screen.getvalue()
    assert "y" * 69 in screen.getvalue()


def test_a_bar_works_on_a_terminal(screen):
    bar = log.Bar("rl", 3, 1)
    bar.step(2, {"reward": 0.123456})
    bar.step(3, {"reward": 0.5})
    bar.close()
    assert "reward 0.5" in screen.getvalue() and "3/3" in screen.getvalue()


def test_a_bar_without_a_terminal_tells_the_first_and_the_last_step(monkeypatch):
    file, clock = io.StringIO(), iter([0.0, 40.0, 44.0, 48.0])  # start and three steps
    monkeypatch.setattr(log, "console", Console(file=file, width=100))
    monkeypatch.setattr(log.time, "monotonic", lambda: next(clock))
    bar = log.Bar("rl", 3, 0)
    for step in (1, 2, 3):
        bar.step(step, {"reward": 0.123456, "what": "[red]"})
    bar.close()
    assert file.getvalue().splitlines() == [
        "rl: compiling ...",
        "rl 1/3  reward 0.123  what [red]",
        "rl 3/3  reward 0.123  what [red]  4.0 s a step",
    ]


def test_a_bar_without_a_terminal_tells_the_time_that_is_left(monkeypatch):
    """The first step, which compiles, does not count: 300 s for each of the 24 that are left."""
    file, clock = io.StringIO(), iter([0.0, 900.0, 1200.0, 1500.0])
    monkeypatch.setattr(log, "console", Console(file=file, width=100))
    monkeypatch.setattr(log.time, "monotonic", lambda: next(clock))
    bar = log.Bar("rl", 30, 3)
    for step in (4, 5, 6):
        bar.step(step, {})
    assert file.getvalue().splitlines()[1:] == [
        "rl 4/30",
        "rl 5/30  5.0 min a step, 2.1 h left",
        "rl 6/30  5.0 min a step, 2.0 h left",
    ]


def test_a_bar_without_a_terminal_lives_while_the_first_step_compiles(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(log, "console", Console(file=file, width=100))
    monkeypatch.setattr(log, "PATIENCE", 0.02)
    bar = log.Bar("rl", 3, 0)
    while file.getvalue().count("compiles") < 2:
        time.sleep(0.001)
    bar.step(1, {})
    told = file.getvalue().splitlines()
    assert told[1].startswith("rl: 0.02 s so far") and told[2].startswith("rl: 0.04 s so far")
    assert bar._ready.is_set()


def test_a_finished_bar_compiles_nothing(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(log, "console", Console(file=file, width=100))
    log.Bar("rl", 3, 3).close()
    assert file.getvalue() == ""


def test_a_long_error_is_cut_and_says_so(monkeypatch):
    screen = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr(log, "aside", screen)
    log.say_aside("x" * (log.LONGEST + 1234))
    said = "".join(screen.file.getvalue().split("\n"))
    assert said.count("x") == log.LONGEST and said.endswith("... (1,234 characters more)")
    log.say_aside("y" * log.LONGEST)
    assert "more" not in screen.file.getvalue().partition("y")[2]
