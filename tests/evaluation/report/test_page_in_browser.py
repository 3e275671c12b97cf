"""The page in headless Chromium: nothing is refused or fails, hostile text does nothing, filters and sizes work."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from asr_kd.evaluation.report.evidence import envelope, sound, spectrogram
from asr_kd.evaluation.report.page import page

FETCH = """<script>addEventListener("load", () => setTimeout(() =>
  document.body.append(document.querySelector("iframe").contentDocument.getElementById("probe")), 900));</script>"""
"""Copies the facts of a page in a frame out of the frame."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PHONE, LAPTOP = 390, 1280

PROBE = """<script>addEventListener("load", () => setTimeout(() => {
  const audio = document.querySelector("audio"), picture = document.querySelector(".stage image");
  const facts = document.createElement("pre");
  facts.id = "probe";
  facts.textContent = JSON.stringify({
    pwned: window.pwned === undefined ? null : window.pwned,
    wide: document.documentElement.scrollWidth - innerWidth,
    ids: [...document.querySelectorAll(".utterance h3")].map((node) => node.textContent),
    wrong: [...document.querySelectorAll(".utterance .err")].map((node) => node.textContent),
    audio: audio ? audio.duration : null, picture: picture ? picture.getAttribute("href").slice(0, 15) : null,
    tokens: [...document.querySelectorAll(".stage .token")].map((node) => node.textContent),
    shade: document.documentElement.dataset.shade,
    ink: getComputedStyle(document.body).color, paper: getComputedStyle(document.body).backgroundColor,
    unnamed: [...document.querySelectorAll("a, button, select, input, summary, [tabindex='0']")].filter((node) =>
      !(node.textContent.trim() || node.getAttribute("aria-label") || node.labels?.length)).length,
  });
  document.body.append(facts);
}, 300));</script>"""
"""Collects facts of the page; the policy, which another test checks, must be gone."""


@pytest.fixture(scope="module")
def browser():
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)} (Debian: apt-get install chromium)")
    return found


def run(browser, tmp_path, *arguments):
    """Output and errors of the browser, which is given a home of its own."""
    command = [
        *(
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=2000",
        ),
        *("--enable-logging=stderr", f"--user-data-dir={tmp_path / 'browser'}", "--disable-dev-shm-usage"),
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, timeout=600, check=True)
    return done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def probed(browser, tmp_path, text, width, fragment=""):
    """Facts that the page reports."""
    without_policy = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", text)
    (tmp_path / "probed.html").write_text(without_policy.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    # A window is never narrower than a laptop's, a frame is.
    frame = f'<!doctype html><iframe src="probed.html#{fragment}" width={width} height=900></iframe>'
    (tmp_path / "frame.html").write_text(frame + FETCH, encoding="utf-8")
    place = "frame.html" if width < 600 else f"probed.html#{fragment}"
    flags = ["--disable-web-security", "--disable-site-isolation-trials", "--allow-file-access-from-files"]
    dom, _ = run(browser, tmp_path, *flags, f"--window-size={LAPTOP},900", "--dump-dom", f"file://{tmp_path / place}")
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)
    assert found, dom[:500]
    plain = found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    return json.loads(plain)


def evidence(test_set, utterance_id):
    tone = 0.3 * torch.sin(torch.arange(24_000) * 0.2)
    spikes = [3, 0, 90, 4, 0, 20, 6, 2, 95, 9, 1, 80]
    seen = {"shift_ms": 40, "offset_ms": 35, "symbols": ["A", "</script>", "▁"], "spikes": spikes}
    shown = {"seconds": 1.5, "envelope": envelope(tone, 50), "spectrogram": spectrogram(tone), "audio": sound(tone)}
    return {"test_set": test_set, "id": utterance_id, **shown, "posteriors": {"student_kd": seen}}


def test_the_policy_lets_the_page_work_and_nothing_is_complained_of(browser, tmp_path, report):
    (tmp_path / "index.html").write_text(page(report, [evidence("test", "ann-1")]), encoding="utf-8")
    dom, errors = run(browser, tmp_path, "--dump-dom", f"file://{tmp_path / 'index.html'}")
    assert [line for line in errors.splitlines() if "CONSOLE" in line] == []
    assert "10 of 10 utterances" in dom  # the script ran
    assert dom.count('class="utterance"') == 10


def test_hostile_text_does_nothing_on_a_phone(browser, tmp_path, hostile):
    name, rows = next(iter(hostile.rows.items()))
    first = rows["teacher"][0]["id"]
    found = probed(browser, tmp_path, page(hostile, [evidence(name, first)]), PHONE, "only=evidence")
    assert found["pwned"] is None
    assert found["ids"] == [first]
    assert any("<script>" in word for word in found["wrong"]) or found["wrong"]
    assert found["wide"] <= 0


def test_filters_and_playback(browser, tmp_path, report):
    text = page(report, [evidence("dev", "eve-2")])
    found = probed(browser, tmp_path, text, LAPTOP, "only=teacher&theme=dark&set=dev")
    assert found["ids"] == ["eve-2"]
    assert found["wrong"] == ["FOR"]
    assert found["audio"] == pytest.approx(1.5, abs=0.25)
    assert found["picture"] == "data:image/webp"
    assert found["tokens"] == ["A", "</script>"]
    assert found["shade"] == "dark"
    assert luminance(found["ink"]) > luminance(found["paper"])
    assert found["unnamed"] == 0
    assert found["wide"] <= 0


def test_light_on_a_phone_fits_and_searches(browser, tmp_path, report):
    found = probed(browser, tmp_path, page(report), PHONE, "q=seven&theme=light")
    assert set(found["ids"]) == {"bob-1"}
    assert luminance(found["ink"]) < luminance(found["paper"])
    assert found["wide"] <= 0


def test_a_picture_of_it_is_not_empty(browser, tmp_path, report):
    (tmp_path / "index.html").write_text(page(report), encoding="utf-8")
    picture = tmp_path / "page.png"
    run(
        browser,
        tmp_path,
        f"--window-size={LAPTOP},800",
        f"--screenshot={picture}",
        f"file://{tmp_path / 'index.html'}",
    )
    pixels = np.asarray(Image.open(picture).convert("RGBA")).view(np.uint32)
    assert pixels.size == LAPTOP * 800
    assert len(np.unique(pixels)) > 200  # ink, paper and every system's colour, with their edges


def luminance(colour):
    """Of "rgb(r, g, b)"."""
    return sum(int(value) for value in re.findall(r"\d+", colour)[:3])
