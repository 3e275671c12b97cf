"""index.html: puts sections, the browser of utterances and its evidence together, within the size that is allowed."""

from collections.abc import Mapping, Sequence
from typing import Any

from asr_kd.evaluation.distillation import comparisons_of
from asr_kd.evaluation.report.blocks import Section, looks, system_cell
from asr_kd.evaluation.report.browser import browser
from asr_kd.evaluation.report.charts import Look
from asr_kd.evaluation.report.evidence import Evidence
from asr_kd.evaluation.report.loading import Report
from asr_kd.evaluation.report.main_systems import MainSystems, headline, main_systems
from asr_kd.evaluation.report.measured import (
    agreement_section,
    latency_section,
    matrix_section,
    robustness_section,
    seed_section,
)
from asr_kd.evaluation.report.sections import (
    confusion_section,
    cost_section,
    result_section,
    speaker_section,
    training_section,
)
from asr_kd.evaluation.report.templates import render
from asr_kd.evaluation.report.utterance_views import View, views
from asr_kd.evaluation.settings import ReportSettings
from asr_kd.evaluation.tables import SYNTHETIC_NOTICE


def page(report: Report, evidence: Sequence[Evidence] = (), settings: ReportSettings | None = None) -> str:
    """The whole report as one HTML file that loads nothing.

    Args:
        report: fresh or read again; what an earlier release did not measure is left out.
        evidence: the most telling first; what does not fit into `settings.max_mb` is left out, and that is said.
    """
    settings = settings or ReportSettings()
    main, styles = main_systems(report), looks(report.summary["models"])
    found = views(report, main) if main is not None else []
    facts = report.summary["provenance"]
    kicker = " · ".join(part for part in (facts.get("recipe"), str(facts["date"])[:10]) if part)
    context = {
        "title": f"asr-kd report: {facts.get('recipe') or ', '.join(report.sets) or 'nothing'}",
        "kicker": kicker,
        "headline": headline(report, main),
        "numbers": _numbers(report, main, styles) if main is not None else [],
        "notices": _notices(report),
        "sections": _sections(report, main, styles, found) if main is not None else [],
        "key": [system_cell(look) for look in styles.values()],
        "facts": _facts(report),
        "footer": "Written by asr-kd evaluate. This file loads nothing from elsewhere.",
    }
    text = render("page.html", **context, browser=None)
    if main is None or not found:
        return text
    room = settings.max_mb * 1e6 - len(text.encode())
    return render("page.html", **context, browser=browser(found, main, styles, evidence, room, settings.max_mb))


def _sections(report: Report, main: MainSystems, styles: Mapping[str, Look], found: Sequence[View]) -> list[Section]:
    parts = [
        result_section(report, styles, main),
        cost_section(report, styles, main),
        latency_section(report, styles, main),
        matrix_section(report, styles, main),
        agreement_section(report, styles, main),
        robustness_section(report, styles, main),
        seed_section(report),
        speaker_section(report, styles, main),
        confusion_section(report, styles, main, found),
        training_section(report, styles),
    ]
    return [part for part in parts if part is not None]


def _numbers(report: Report, main: MainSystems, styles: Mapping[str, Look]) -> list[dict[str, Any]]:
    """The few figures that stand large below the headline."""
    found = report.sets[main.test_set]
    numbers = []
    for key in main.keys:
        low, high = found[key]["wer_low"], found[key]["wer_high"]
        under = "word error rate" if low is None else f"WER; 95 % interval {100 * low:.1f} to {100 * high:.1f}"
        value = f"{100 * found[key]['wer']:.2f}"
        numbers.append(
            {"name": system_cell(styles[key]), "kind": styles[key].kind, "value": value, "unit": "%", "under": under}
        )
    if main.baseline is not None:
        numbers.append(_gap_number(comparisons_of(found)[0]))
    return numbers


def _gap_number(pair: Mapping[str, Any]) -> dict[str, Any]:
    if pair["gap_recovered"] is None:
        return {"name": "gap recovered", "kind": "", "value": "–", "unit": "", "under": "cannot be said, see above"}
    low, high = (f"{100 * pair[f'gap_recovered_{end}']:.0f}".replace("-", "−") for end in ("low", "high"))
    value = f"{100 * pair['gap_recovered']:.0f}".replace("-", "−")
    return {"name": "gap recovered", "kind": "", "value": value, "unit": "%", "under": f"95 % interval {low} to {high}"}


def _notices(report: Report) -> list[dict[str, Any]]:
    facts = report.summary["provenance"]
    notices = [{"text": SYNTHETIC_NOTICE, "loud": True}] if facts["synthetic"] else []
    absent = {**report.skipped, **report.summary.get("absent_systems", {})}
    for name, reason in absent.items():
        notices.append({"text": f"Not evaluated: {name} ({reason}).", "loud": False})
    for name, found in report.sets.items():
        if found["excluded"]:
            total = found["utterances"] + len(found["excluded"])
            left_out = f"{len(found['excluded'])} of {total} utterances left out for every system alike"
            text = f"{name}: {left_out}; results.md lists them."
            notices.append({"text": text, "loud": False})
    return notices


def _facts(report: Report) -> list[tuple[str, str]]:
    facts = report.summary["provenance"]
    machine, bootstrap = facts["machine"], facts["bootstrap"]
    seeds = ", ".join(map(str, facts["seeds"])) or "not stated"
    known = {
        "Recipe": facts.get("recipe"),
        "Corpus": facts.get("corpus"),
        "Normalizer": f"{facts['normalizer']}, for references and every system alike",
        "Seeds": f"{seeds} (one seed: intervals do not hold what another training run would change)"
        if len(facts["seeds"]) == 1
        else seeds,
        "Sets that training looked at": ", ".join(facts.get("dev_sets") or []) or None,
        "Intervals": f"bootstrap, {bootstrap['samples']} samples, seed {bootstrap['seed']}, percentile",
        "Date": facts["date"],
        "Command": facts["command"],
        "Git commit": facts["git_commit"],
        "Machine": f"{machine['cpu']}, {machine['cpus']} CPUs ({machine['system']}), GPU: {machine['gpu'] or 'none'}",
        "Versions": ", ".join(f"{name} {number}" for name, number in facts["versions"].items()),
        "Numbers": "results.json, results.md, results.tex; texts in hypotheses/SET/SYSTEM.jsonl; model cards in cards/",
    }
    return [(name, str(value)) for name, value in known.items() if value is not None]
