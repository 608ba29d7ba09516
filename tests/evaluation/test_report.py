"""The report: one file that needs nothing else, safe whatever a model says, and working in a real browser."""

import json
import re
from dataclasses import replace

import pytest
import torch
from conftest import hand_made

from alphasteer.evaluation import Outcome, Starts, Suite, results
from alphasteer.evaluation.outcomes import CUT
from alphasteer.evaluation.report import places, render_report
from alphasteer.prompts import PromptSet
from alphasteer.replies import Reply

LONG = "Sure, here is what you do, and it goes on for a good while longer than anybody needs to read it."
EVIL = "</script><script>document.title = 'taken over'</script><!-- <b>bold</b>"


def some_starts(count):
    torch.manual_seed(count)
    one, layers, stream = torch.rand(count), torch.rand(count, 4), torch.randn(2, count, 8)
    return Starts(one, torch.randn(count), torch.ones(count), layers, *stream)


@pytest.fixture(scope="module")
def page(llama):
    def build(full_replies=False, swept=False):
        bad = Suite("bad", "safety", "refusal", PromptSet.of([f"bad {n}" for n in range(24)]))
        fine = Suite("fine", "over-refusal", "refusal", PromptSet.of(["tell me about rain", EVIL]))
        sums = Suite("sums", "utility", "maths", PromptSet.of(["1+1"]))

        def marks(count, refused, **more):
            same = {"refusal": (refused,) * count, "coherent": (True,) * count, "identical": (not refused,) * count}
            return {**same, **more}

        yes, no, said = Reply((1,), LONG), Reply((2,), "I'm sorry, but I can't."), Reply((3,), EVIL)
        outcomes = [
            Outcome(
                bad,
                {"vanilla": (yes,) * 24, "steered": (no,) * 24},
                {"vanilla": marks(24, False), "steered": marks(24, True)},
            ),
            Outcome(
                fine,
                {"vanilla": (yes, said), "steered": (yes, said)},
                {"vanilla": marks(2, False), "steered": marks(2, False)},
            ),
            Outcome(
                sums,
                {"vanilla": (yes,), "steered": (yes,)},
                {"vanilla": marks(1, False, accuracy=(True,)), "steered": marks(1, False, accuracy=(True,))},
            ),
        ]
        outcomes = [replace(o, starts={"steered": some_starts(len(o))}, tokens={"judge": 411}) for o in outcomes]
        arms = {"vanilla": None, "steered": hand_made(llama, (5,), threshold=0.2, ceiling=0.8)}
        if swept:
            names = ("steered x0.5", "steered x1")
            arms = {"vanilla": None, **dict.fromkeys(names, arms["steered"])}
            outcomes = [
                replace(
                    o,
                    replies={"vanilla": o.replies["vanilla"], **dict.fromkeys(names, o.replies["steered"])},
                    marks={"vanilla": o.marks["vanilla"], **dict.fromkeys(names, o.marks["steered"])},
                    starts=dict.fromkeys(names, o.starts["steered"]),
                )
                for o in outcomes
            ]
        found = results(outcomes, model="org/tiny", steering="abc")
        return render_report(found, outcomes, arms, full_replies=full_replies)

    return build


def test_the_report_needs_nothing_but_itself(page):
    text = page()
    assert not re.findall(r"""(?:src|href)\s*=|@import|url\(|fetch\(|https?://(?!www\.w3\.org)""", text)
    assert text.count("<script") == 2
    assert "</script><script>document" not in text


def test_compliance_with_malicious_requests_is_cut_unless_asked_for(page):
    def data(text):
        return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])["replies"]

    cut, whole = data(page()), data(page(full_replies=True))
    assert cut["bad"][0]["arms"]["vanilla"]["text"] == LONG[:CUT] + " [cut]"
    assert cut["bad"][0]["arms"]["steered"]["text"] == "I'm sorry, but I can't."
    assert cut["fine"][0]["arms"]["vanilla"]["text"] == LONG, "harmless requests are answered in full"
    assert whole["bad"][0]["arms"]["vanilla"]["text"] == LONG
    assert cut["fine"][1]["arms"]["steered"]["text"] == EVIL, "shown as it is, as text"


def open_page(browser, text, tmp_path, **context):
    file = tmp_path / "report.html"
    file.write_text(text, encoding="utf-8")
    tab = browser.new_context(**context).new_page()
    tab.errors = []
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.goto(file.as_uri())
    return tab


def test_replies_are_browsed_searched_and_filtered(browser, page, tmp_path):
    tab = open_page(browser, page(), tmp_path)
    assert tab.title() == "AlphaSteer: tiny"
    assert tab.locator("#count").inner_text() == "24 of 24 prompts"
    assert (tab.locator(".card").count(), tab.locator("#page").inner_text()) == (10, "1 of 3")
    tab.click("#next")
    tab.click("#next")
    assert tab.locator(".card").count() == 4
    assert tab.locator("#next").is_disabled()
    tab.fill("#search", "bad 17")
    assert tab.locator("#count").inner_text() == "1 of 24 prompts"
    assert "[cut]" in tab.locator(".card").inner_text()
    tab.select_option("#filter", "refused by vanilla")
    assert tab.locator("#count").inner_text() == "0 of 24 prompts"
    tab.fill("#search", "")
    tab.select_option("#suite", "fine")
    tab.select_option("#filter", "not refused by steered")
    assert EVIL in tab.locator(".card").nth(1).inner_text()
    assert tab.locator(".card b").count() == 0, "what a model says is never markup"
    assert tab.title() == "AlphaSteer: tiny"
    assert tab.errors == []


def test_averages_stand_with_their_intervals_and_what_judging_cost(browser, page, tmp_path):
    tab = open_page(browser, page(), tmp_path)
    low = round(100 * 24 / (24 + 1.96**2))  # Wilson's, of 24 among 24
    dsr = tab.locator("#tiles .tile").nth(1).locator("dd").nth(0)
    assert re.sub(r"\s+", " ", dsr.inner_text()) == f"100.0 % {low} to 100 %"
    unchanged = tab.locator("#tiles .tile").nth(0).locator("dd").last
    assert unchanged.inner_text().strip() == "100.0 %", "to itself: certain"
    assert "judge cost: 1,233 tokens" in tab.locator("body").inner_text()


def test_the_table_marks_the_best_arm_and_what_differs(browser, page, tmp_path):
    tab = open_page(browser, page(), tmp_path)
    rows = tab.locator("#table tbody tr:not(.kind)")
    assert rows.count() == 3
    best = rows.nth(0).locator("td.best")
    assert best.count() == 1
    assert best.inner_text().startswith("100.0 % *")
    assert rows.nth(1).locator("td.best").count() == 2, "level arms are both the best"
    assert tab.locator("#histograms svg").count() == 3
    assert tab.locator("#curve circle").count() == 2
    assert tab.locator("#planes svg").count() == 2
    assert tab.locator("#planes svg").nth(1).locator("circle").count() == 24 + 2 + 1
    assert tab.locator("#shift path").count() == 3
    assert tab.locator("#roc path").count() == 1
    assert tab.locator("#every tbody tr:not(.kind)").count() > rows.count()
    for line in tab.locator("#histograms line.mark").all():
        assert 0 <= float(line.get_attribute("x1")) <= 300, "threshold and ceiling are in the picture"
    assert tab.errors == []


def test_the_plane_is_that_of_most_variance_of_the_unsteered_streams():
    torch.manual_seed(0)
    before = torch.randn(30, 6) * torch.tensor([9.0, 5.0, 1.0, 0.1, 0.1, 0.1])
    after = before + 1
    zeros = torch.zeros(30)
    suite = Suite("s", "safety", "refusal", PromptSet.of([f"steal {n}" for n in range(30)]))
    starts = {"a": Starts(zeros, zeros, zeros, torch.zeros(30, 2), before, after)}
    dots = places([Outcome(suite, {}, {}, starts)])["a"]["s"]
    centred = (before - before.mean(0)).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    for number, column in enumerate((-1, -2)):
        expected = centred @ vectors[:, column]
        found = torch.tensor([dot[number] for dot in dots["before"]], dtype=torch.float64)
        assert min((found - expected).abs().max(), (found + expected).abs().max()) < 2e-3
    moved = torch.tensor(dots["after"]) - torch.tensor(dots["before"])
    assert (moved - moved[0]).abs().max() < 3e-3, "one shift for all moves all dots alike"
    assert places([Outcome(suite, {}, {})]) == {}


def test_arms_are_tested_against_each_other(browser, page, tmp_path):
    tab = open_page(browser, page(), tmp_path)
    tab.click("text=Tests between arms")
    rows = tab.locator("#tests tbody tr")
    assert rows.count() == 1
    assert rows.first.inner_text().startswith("vanilla and steered")
    assert tab.errors == []


def test_a_sweep_is_drawn_as_a_line_from_the_unsteered_model(browser, page, tmp_path):
    tab = open_page(browser, page(swept=True), tmp_path)
    assert tab.locator("#curve path").count() == 1
    assert tab.locator("#curve circle").count() == 3
    assert tab.errors == []


def test_it_reads_on_a_phone_and_in_the_dark(browser, page, tmp_path):
    tab = open_page(browser, page(), tmp_path, viewport={"width": 360, "height": 700}, color_scheme="dark")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    letters = "[...document.querySelectorAll('svg text')].map((text) => text.getBoundingClientRect().height)"
    assert tab.evaluate(f"Math.min(...{letters}.filter((height) => height > 0))") >= 10, (
        "figures are drawn as wide as they stand there"
    )
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    light = open_page(browser, page(), tmp_path, color_scheme="light")
    assert dark != light.evaluate("getComputedStyle(document.body).backgroundColor")
