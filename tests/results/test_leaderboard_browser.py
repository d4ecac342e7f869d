"""The page in headless Chromium: sort, filter, hover, and nothing on the console."""

import html
import json
import re
import shutil
import subprocess

import pytest

from stc_lmms.results.leaderboard import build
from stc_lmms.results.page import to_html
from stc_lmms.results.read import find_runs
from tests.results.helpers import answer, question, write_run
from tests.results.test_leaderboard import plain_results

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

WATCH = """<script>
window.problems = [];
addEventListener("error", event => problems.push(String(event.message)));
addEventListener("securitypolicyviolation", event => problems.push("blocked " + event.blockedURI));
console.error = console.warn = (...words) => problems.push(words.join(" "));
</script>"""

ACT = """<script>
addEventListener("load", () => {
  const said = {};
  const all = selector => [...document.querySelectorAll(selector)];
  const names = () => all("#board tbody tr").filter(row => !row.hidden).map(row => row.cells[0].title);
  const head = name => all("#board th button").find(button => button.textContent === name);
  const order = name => { head(name).click(); return [head(name).parentElement.ariaSort, names()]; };
  const on = (where, type) => where.dispatchEvent(new PointerEvent(type, { bubbles: true }));
  said.start = names();
  said.falling = order("tokens/frame");
  said.rising = order("tokens/frame");
  said.text = order("run");
  said.other = head("tokens/frame").parentElement.ariaSort;
  const words = document.getElementById("words"), which = document.getElementById("which");
  const type = (field, text, kind) => {
    field.value = text;
    field.dispatchEvent(new Event(kind));
    return names();
  };
  said.filtered = type(words, "Demo stc", "input");
  said.away = document.querySelectorAll("svg .away").length;
  said.count = document.getElementById("count").textContent;
  said.all = type(words, "", "input").length;
  said.benchmark = type(which, "mmbench", "change");
  type(which, "", "change");
  const point = document.querySelector("svg .point"), tip = document.getElementById("tip");
  said.before = tip.hidden;
  on(point, "pointerover");
  const box = tip.getBoundingClientRect();
  said.hover = [tip.hidden, tip.textContent, box.left >= 0 && box.right <= innerWidth && box.top >= 0];
  said.lit = document.querySelector("#board tr.lit").cells[0].title;
  on(point, "pointerout");
  said.after = [tip.hidden, document.querySelectorAll(".lit").length];
  said.wide = document.documentElement.scrollWidth <= innerWidth;
  said.requests = performance.getEntriesByType("resource").map(entry => entry.name);
  said.problems = problems;
  document.body.innerHTML = `<pre id="said"></pre>`;
  document.getElementById("said").textContent = JSON.stringify(said);
});
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_works_in_a_browser(tmp_path, width):
    for method, right, tokens in (("none", 4, 196.0), ("stc", 3, 64.0), ("dycoke", 1, 98.0)):
        asked = [question("EPM", int(i < right)) for i in range(4)]
        write_run(
            tmp_path / method, asked, [answer(9, llm_tokens_mean=tokens)], method=method, pretrained="demo"
        )
    plain_results(tmp_path, {"mmbench": {"acc,none": 0.5}})
    runs = find_runs([tmp_path], pytest.fail)
    page = to_html(build(runs), runs).replace("<head>", f"<head>{WATCH}").replace("</body>", f"{ACT}</body>")
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    ran = subprocess.run(
        [CHROMIUM, *options, profile, f"--window-size={width},900", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="said">(.*)</pre>', ran.stdout, re.DOTALL)
    assert found, ran.stderr[-2000:]
    said = json.loads(html.unescape(found[1]))
    assert said["problems"] == [] and "CONSOLE" not in ran.stderr and said["requests"] == []
    assert said["start"] == ["none", "stc", "dycoke", "org__other"]
    # what is not known comes last, whichever way
    assert said["falling"] == ["descending", ["none", "dycoke", "stc", "org__other"]]
    assert said["rising"] == ["ascending", ["stc", "dycoke", "none", "org__other"]]
    assert said["text"] == ["ascending", ["dycoke", "none", "org__other", "stc"]] and said["other"] == "none"
    assert said["filtered"] == ["stc"] and said["count"] == "1 of 4 rows" and said["away"] == 4
    assert said["all"] == 4 and said["benchmark"] == ["org__other"]
    assert said["before"] and said["hover"][0] is False and said["hover"][2]
    assert "accuracy 100.00 %, n 4" in said["hover"][1] and said["lit"] == "none"
    assert said["after"] == [True, 0]
    assert said["wide"], "the page scrolls sideways"
