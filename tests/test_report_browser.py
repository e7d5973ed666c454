"""The report as a browser has it: scripts run, tables sort, images load, nothing complains."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from pipeline.report.compare import compared_of, render_comparison
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.workspace import Workspace
from tests.test_report_page import hostile_files, write_report
from tests.tiny_experiment import make_experiment_files
from tests.tiny_results import make_results

BROWSERS = ("chromium", "chromium-browser", "chrome", "google-chrome", "chromium-headless-shell")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")

# Goes into a copy of the page, in place of its policy, and writes down what it finds once all has loaded.
PROBE = """
<script>
window.addEventListener("load", async () => {
  const found = {};
  const images = [...document.images];
  for (const image of images) image.loading = "eager";
  for (let turn = 0; turn < 40 && images.some((image) => !image.complete); turn += 1) {
    await new Promise((go) => setTimeout(go, 50));
  }
  found.images = images.length;
  found.broken = images.filter((image) => !image.naturalWidth).length;
  const table = [...document.querySelectorAll("table")].find((each) => each.textContent.includes("teacher AP"));
  const column = (number) => [...table.tBodies[0].rows].map((row) => row.cells[number].textContent);
  const click = (number) => table.tHead.rows[0].cells[number].querySelector("button").click();
  click(1); found.down = column(1);
  click(1); found.up = column(1);
  found.told = table.tHead.rows[0].cells[1].getAttribute("aria-sort");
  click(0); found.byName = column(0);
  found.toldBefore = table.tHead.rows[0].cells[1].getAttribute("aria-sort");
  const toggle = document.querySelector("#theme");
  found.colours = [];
  for (let turn = 0; turn < 3; turn += 1) {
    toggle.click();
    found.colours.push([document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor]);
  }
  document.querySelector("button.look")?.click();
  found.enlarged = document.querySelectorAll("dialog[open] img").length;
  document.querySelector("dialog").click();
  found.closed = document.querySelectorAll("dialog[open]").length;
  const scrolls = [...document.querySelectorAll(".scroll")];
  found.hinted = scrolls.filter((each) => !each.previousElementSibling.hidden).length;
  found.overflowing = scrolls.filter((each) => each.scrollWidth > each.clientWidth).length;
  found.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  found.scripts = document.scripts.length;
  const note = document.createElement("pre");
  note.id = "found";
  note.textContent = JSON.stringify(found);
  document.body.append(note);
});
</script>
"""


def browse(page: Path, profile: Path, width: int = 1280) -> tuple[str, list[str]]:
    """The page as it stands after its scripts ran, and what was said on the console."""
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        f"--user-data-dir={profile}",
        f"--window-size={width},900",
        "--virtual-time-budget=5000",
        "--enable-logging=stderr",
        "--v=0",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture
def page(tmp_path, monkeypatch) -> Path:
    """A report on data whose names are markup."""
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    hostile_files(tmp_path)
    space = Workspace(load_experiment(make_experiment_files(tmp_path)), tmp_path / "work")
    write_report(space, make_results(space, tmp_path / "annotations.json"), tmp_path / "out")
    return tmp_path / "out/report.html"


def probed(page: Path) -> Path:
    """A copy with the probe, without the policy that would stop it."""
    html, policies = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    assert policies == 1
    copy = page.with_name("probed.html")
    copy.write_text(html.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    return copy


@pytest.mark.slow
def test_the_page_runs_under_its_own_policy_without_a_complaint(page, tmp_path):
    dom, console = browse(page, tmp_path / "profile")
    assert console == []
    toggle = re.search(r'<button[^>]*id="theme"[^>]*>', dom)
    assert toggle is not None
    assert "hidden" not in toggle[0]  # the script has run


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 500])
def test_tables_sort_images_load_and_colours_change(page, tmp_path, width):
    dom, console = browse(probed(page), tmp_path / "profile", width)
    assert console == []
    match = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert match is not None
    found = json.loads(unescape(match[1]))
    assert (found["images"], found["broken"]) == (14, 0)
    assert found["down"] == ["10", "0"]
    assert found["up"] == ["0", "10"]
    assert found["told"] == "ascending"
    assert found["byName"] == sorted(found["byName"], key=str.casefold)
    assert found["toldBefore"] is None
    assert [theme for theme, _ in found["colours"]] == ["light", "dark", "auto"]
    assert found["colours"][0][1] != found["colours"][1][1]
    assert found["enlarged"] == 2
    assert found["closed"] == 0
    assert found["wide"] == 0
    assert found["hinted"] == found["overflowing"]
    assert (found["hinted"] > 0) == (width < 600)  # tables fit on a desktop
    assert found["scripts"] == 2  # the page's own and the probe


@pytest.mark.slow
def test_no_table_of_a_comparison_is_cut_on_a_desktop(tmp_path, monkeypatch):
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    compared = []
    for number, name in enumerate(("baseline-with-a-rather-long-name", "samrefiner-preset-40-percent", "third")):
        made = make_experiment_files(tmp_path, {"refine": {"seed": number}}, name)
        space = Workspace(load_experiment(made), tmp_path / "work")
        for key in [key for key in space.fingerprints if space.is_made(key)]:
            del space.fingerprints[key]
        make_results(space, tmp_path / "annotations.json", gain=0.02 * number)
        compared.append(compared_of(Workspace(load_experiment(made), tmp_path / "work")))
    page = tmp_path / "comparison.html"
    page.write_text(render_comparison(compared), encoding="utf-8")
    dom, console = browse(probed(page), tmp_path / "profile")
    assert console == []
    match = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert match is not None
    found = json.loads(unescape(match[1]))
    assert (found["overflowing"], found["wide"]) == (0, 0)
