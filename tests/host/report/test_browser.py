"""A browser opens the page, filters, opens a rollout and reads a token; nothing leaves the page.

`make test-browser` installs the package that drives the browser; a Chromium has to be on the PATH.
"""

import json
import shutil
import time

import pytest
from make_report import fake_run

from rlvr_jax.host.report import command

pytestmark = pytest.mark.browser
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no Chromium is on the PATH")
    with api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def visit(browser):
    """A function that opens a page of a size and theme; nothing may fail or leave the folder."""
    opened = []

    def open_page(path, width=1400, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        asked, failed = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.on("console", lambda message: failed.append(message.text))
        page.goto(path.as_uri())
        page.locator("#app main").wait_for()
        opened.append((path, page, asked, failed))
        return page

    yield open_page
    for path, page, asked, failed in opened:
        assert failed == []
        assert all(url.startswith(path.parent.as_uri()) for url in asked), asked
        page.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of which one rollout is wrong and rewarded, with a reward of each token."""
    folder = fake_run(tmp_path_factory.mktemp("runs") / "demo", steps=32)
    row = {"step": 99, "question": "the last question", "response": "seven", "reference": "8"}
    row |= {"reward": 1.0, "oracle": 0.0, "advantage": 0.5, "answer": "seven", "prompt": "<|user|>"}
    row |= {"pieces": ["se", "ven"], "piece_values": [-0.5, -0.25], "parts": {"p1": 0.9}}
    row |= {"token_values": {"token_reward": [0.125, -0.75], "ratio": [1.0, 1.5]}}
    right = {"question": "another", "response": "2", "reward": 1.0, "oracle": 1.0}
    rows = [row, *[right] * 5, right | {"response": "cut", "truncated": True}]
    text = "\n".join(map(json.dumps, rows))
    (folder / "samples" / "rl_step_000099.jsonl").write_text(text)
    return folder


def test_a_reader_finds_the_reward_of_a_token(run, visit):
    page = visit(command.write_report(run))
    rollouts = page.locator("#rollouts")
    assert rollouts.locator("[role=status]").inner_text().startswith("7 rollouts of 7 · 2 problems")
    assert rollouts.locator(".end").filter(has_text="×5").count() == 1
    rollouts.get_by_role("button", name="wrong but rewarded").click()
    assert rollouts.locator("[role=status]").inner_text().startswith("1 rollout of 7")
    line = rollouts.locator("button.line")
    assert line.count() == 1 and line.get_attribute("aria-expanded") == "true"
    line.click()
    assert not rollouts.locator(".text").is_visible()
    line.click()
    facts = rollouts.locator(".facts").inner_text()
    for words in ("final answer seven", "verifier p(1) 0.9", "rewarded though wrong"):
        assert words in facts
    token = rollouts.locator(".text s").nth(1)
    token.hover()
    told = page.locator("#tip").inner_text().splitlines()
    assert told[0] == '"ven"' and "token reward of the PRM −0.75" in told
    assert "probability ratio 1.5" in told and "log-prob −0.25" in told
    shade = token.evaluate("node => node.style.background")
    page.get_by_label("colour of the tokens").select_option("logprob")
    assert rollouts.locator(".text s").nth(1).evaluate("node => node.style.background") != shade
    rollouts.get_by_text("the prompt as it was sent").click()
    assert rollouts.locator("pre").inner_text() == "<|user|>"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_wider_than_the_window(run, visit, width, scheme):
    page = visit(command.write_report(run), width, scheme)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#curves .chart svg path.curve").count() > 10
    assert page.locator("header .lead").is_visible()


def test_ten_thousand_rollouts_stay_fluid(tmp_path, visit):
    run = fake_run(tmp_path / "big", steps=8)
    pieces = [f" word{i}" for i in range(100)]
    values = [round(-0.001 * i, 4) for i in range(100)]
    for step in range(1, 9):
        with (run / "samples" / f"rl_step_{step:06d}.jsonl").open("w") as file:
            for i in range(1250):
                row = {"question": f"question {i // 8}", "response": "".join(pieces)}
                row |= {"reward": i % 97 / 97, "oracle": float(i % 3 == 0), "advantage": 0.1}
                row |= {"pieces": pieces, "piece_values": values}
                row |= {"token_values": {"ratio": values, "token_reward": values}}
                file.write(json.dumps(row) + "\n")
    path = command.write_report(run)
    assert path.stat().st_size < 2_000_000, "the rollouts lie beside the page"
    began = time.monotonic()
    page = visit(path)
    status = page.locator("#rollouts [role=status]")
    status.filter(has_text="1,250 rollouts of 1,250").wait_for()
    loaded = time.monotonic() - began
    began = time.monotonic()
    page.get_by_role("button", name="wrong but rewarded").click()
    status.filter(has_not_text="1,250 rollouts of 1,250").wait_for()
    filtered = time.monotonic() - began
    began = time.monotonic()
    page.get_by_label("earlier").click()
    page.get_by_label("search text").fill("question 120")
    status.filter(has_text="1 problem").wait_for()
    searched = time.monotonic() - began
    beside = sum(x.stat().st_size for x in (run / "report_rollouts").iterdir())
    print(f"page {path.stat().st_size:,} bytes, beside it {beside:,} bytes")
    print(f"loaded {loaded:.2f} s, filtered {filtered:.2f} s, step and search {searched:.2f} s")
    assert page.locator(".problem").count() < 40, "only what is visible is drawn"
    assert max(loaded, filtered, searched) < 10
