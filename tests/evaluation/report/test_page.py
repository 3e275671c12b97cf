"""index.html: loads nothing, holds every text as text, leaves out what is not there and what does not fit."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.evaluation.report import Report
from asr_kd.evaluation.report.evidence import Evidence
from asr_kd.evaluation.report.page import CONTROLS_BYTES, asset, embedded, page
from asr_kd.evaluation.settings import ReportSettings


class Parsed(HTMLParser):
    """Elements with their attributes, and the text of scripts and of everything else."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self._inside = dict(attributes).get("id") or tag

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._inside = ""

    def handle_data(self, data):
        if self._inside:
            self.scripts[self._inside] = self.scripts.get(self._inside, "") + data
        else:
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def evidence(test_set: str, utterance_id: str, size: int = 100) -> Evidence:
    tokens = {"shift_ms": 20.0, "offset_ms": 12.5, "symbols": ["a", "</script>"], "spikes": [0, 0, 99, 3, 1, 40]}
    picture = "data:image/webp;base64," + "A" * size
    shown = {"seconds": 1.0, "envelope": [0, 50, 100], "spectrogram": picture, "audio": None}
    return {"test_set": test_set, "id": utterance_id, **shown, "posteriors": {"teacher": tokens}}


def test_it_loads_nothing_from_elsewhere(report):
    text = page(report, [evidence("dev", "ann-1")])
    parsed = Parsed(text)
    leads_out = ("src", "href", "action", "srcset")
    addresses = [value for _, found in parsed.elements for name, value in found.items() if name in leads_out]
    assert len(addresses) > 5
    assert [address for address in addresses if not (address or "").startswith(("#", "data:"))] == []
    assert re.findall(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text) == []
    assert not any("style" in found or any(name.startswith("on") for name in found) for _, found in parsed.elements)


def test_the_policy_names_exactly_its_own_style_and_script(report):
    text = page(report)
    parsed = Parsed(text)
    policy = next(found["content"] for tag, found in parsed.elements if "http-equiv" in found)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for kind, element in (("style-src", "style"), ("script-src", "script")):
        digest = base64.b64encode(hashlib.sha256(parsed.scripts[element].encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"
    assert (rules["img-src"], rules["media-src"]) == ("data:", "data:")
    assert set(rules) == {"default-src", "img-src", "media-src", "base-uri", "form-action", "style-src", "script-src"}


def test_hostile_text_stays_text_everywhere(report, hostile):
    plain, spoilt = Parsed(page(report)), Parsed(page(hostile))
    for tag in {name for name, _ in spoilt.elements}:
        assert spoilt.count(tag) == plain.count(tag), tag
    assert "<script>window.pwned=1</script></script><img src=x onerror=pwned=1>\"' &lt; {{ 7*7 }}" in spoilt.text
    data = json.loads(spoilt.scripts["utterance-data"])
    rows = {(row[0], row[1]): row for row in data["rows"]}
    for name, systems in hostile.rows.items():
        for key, found in systems.items():
            for row in found:
                test_set, _, speaker, reference, outputs, _ = rows[name, row["id"]]
                assert (test_set, speaker, reference) == (name, row["speaker"], row["reference"])
                assert outputs[key][0] == row["hypothesis"]


@settings(max_examples=30)
@given(
    st.recursive(
        st.text(max_size=8) | st.integers() | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    )
)
def test_embedded_data_is_the_data_and_ends_no_element(data):
    text = str(embedded(data))
    assert json.loads(text) == data
    assert not set("<>&\u2028\u2029") & set(text)


def test_lone_surrogates_do_not_stop_the_page(report):
    rows = {"dev": {"teacher": [{**report.rows["dev"]["teacher"][0], "id": "\ud800"}]}}
    page(Report(report.summary, rows)).encode("utf-8")


def test_the_assets_hold_no_end_of_their_element():
    assert "</script" not in asset("page.js").lower()
    assert "</style" not in asset("page.css").lower()


def test_sections_stand_there_when_there_is_something_to_show(report):
    ids = [found["id"] for tag, found in Parsed(page(report)).elements if tag == "section"]
    assert ids == [
        *("result", "cost", "agreement", "speakers", "confusions", "training", "systems", "utterances", "origin"),
    ]


def test_an_average_over_a_curve_that_still_falls_is_stated(report):
    message = "the dev WER still falls at the last epoch"
    models = {**report.summary["models"]}
    models["student_kd"] = {**models["student_kd"], "average_of_a_falling_curve": message}
    text = Parsed(page(Report({**report.summary, "models": models}, report.rows))).text
    assert text.count(message) == 1
    assert f"student-kd: {message}" in text
    assert message not in Parsed(page(report)).text


def test_nothing_evaluated_is_stated(report):
    summary = {**report.summary, "test_sets": {"test": {"skipped": "its files are not here"}}}
    text = Parsed(page(Report(summary))).text
    assert "No set was evaluated" in text
    assert "Not evaluated: test (its files are not here)." in text


@pytest.mark.parametrize(
    ("more", "shown_count", "rows"), [(10**7, 3, 10), (250_000, 2, 10), (50_000, 0, 10), (-2_800, 0, 6)]
)
def test_what_does_not_fit_is_left_out_and_counted(report, more, shown_count, rows):
    shown = [evidence("dev", name, 100_000) for name in ("ann-1", "ann-2", "bob-1")]
    max_mb = (len(page(report).encode()) + CONTROLS_BYTES + more) / 1e6
    text = page(report, shown, ReportSettings(max_mb=max_mb))
    parsed = Parsed(text)
    data = json.loads(parsed.scripts["utterance-data"])
    assert len(text.encode()) <= max_mb * 1e6
    found = sum(name.startswith("e") for name in parsed.scripts if name[1:].isdigit())
    assert found == shown_count == sum(bool(row[5]) for row in data["rows"])
    assert len(data["rows"]) == rows or 0 < len(data["rows"]) < 10 > rows
    assert ("evaluate.report.max_mb" in parsed.text) == (shown_count < 3)
    assert (f"{shown_count} of {len(data['rows'])} can be opened" in parsed.text) == (shown_count > 0)


def test_the_headline_is_of_a_set_that_training_did_not_use(report):
    summary = {**report.summary, "provenance": {**report.summary["provenance"], "dev_sets": ["dev"]}}
    text = Parsed(page(Report(summary, report.rows))).text
    assert "On test, student-kd has a WER of" in text
    assert "Sets used during training" in text


def test_decoding_and_language_model_stand_below_the_title(report):
    assert "Decoding: greedy, no language model. Normalizer: librispeech." in Parsed(page(report)).text
    beam = {"kind": "beam", "lm": "/somewhere/3-gram.arpa", "lm_weight": 0.5}
    models = report.summary["models"]
    changed = {**models, "student_kd": {**models["student_kd"], "decoding": beam}}
    text = Parsed(page(Report({**report.summary, "models": changed}, report.rows))).text
    assert (
        "Decoding: teacher-1, student-hard: greedy, no language model; "
        "student-kd: beam search, language model 3-gram.arpa (weight 0.5)." in text
    )


def test_the_word_error_tables_name_the_system_of_each_column(report):
    found = re.search(r'<section id="confusions".*?</thead>', page(report), re.DOTALL)
    words = re.sub(r"<[^>]+>", " ", found[0].split("<thead>")[1]).split()
    assert words == ["Deleted", "teacher-1", "student-hard", "student-kd"]
