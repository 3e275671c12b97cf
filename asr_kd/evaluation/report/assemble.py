"""Assemble the report of an evaluation: headline, key figures, notices, sections and facts, in their order."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from asr_kd.evaluation.report.document import Document, KeyFigure, Notice, Section, Styles, styles_of
from asr_kd.evaluation.report.loading import Report
from asr_kd.evaluation.report.main_systems import MainSystems, headline, main_systems
from asr_kd.evaluation.report.measure_sections import (
    agreement_section,
    cost_section,
    latency_section,
    matrix_section,
    robustness_section,
    seed_section,
)
from asr_kd.evaluation.report.result_sections import (
    confusion_section,
    result_section,
    speaker_section,
    system_section,
    teacher_section,
    training_section,
)
from asr_kd.evaluation.report.utterance_views import View, views

SYNTHETIC_NOTICE = "Synthetic speech: these results do not apply to real speech."


def assemble(report: Report, found: Sequence[View] | None = None) -> Document:
    """The whole report as data.

    Args:
        report: fresh or read again.
        found: its utterances (`views`), where the caller has them already.
    """
    main, styles = main_systems(report), styles_of(report.summary["models"])
    facts = report.summary["provenance"]
    found = (views(report, main) if main is not None else []) if found is None else found
    return Document(
        title=f"asr-kd report: {facts['recipe'] or ', '.join(report.sets) or 'nothing'}",
        kicker=" · ".join(part for part in (facts["recipe"], str(facts["date"])[:10]) if part),
        headline=headline(report, main),
        settings=f"{_decoding(report)} Normalizer: {facts['normalizer']}. {_seeds_notice(report)}".strip(),
        figures=list(_key_figures(report, main, styles)) if main is not None else [],
        notices=[Notice(text, text == SYNTHETIC_NOTICE) for text in notices(report.summary)],
        sections=_sections(report, main, styles, found) if main is not None else [],
        key=list(styles.values()),
        facts=_facts(report),
        footer="Written by asr-kd evaluate. This file loads nothing from elsewhere.",
    )


def notices(summary: Mapping[str, Any]) -> list[str]:
    """Synthetic speech, and sets and systems that were not evaluated."""
    skipped = {name: found["skipped"] for name, found in summary["test_sets"].items() if "skipped" in found}
    absent = {**skipped, **summary["absent_systems"]}
    parts = [SYNTHETIC_NOTICE] if summary["provenance"]["synthetic"] else []
    return parts + [f"Not evaluated: {name} ({reason})." for name, reason in absent.items()]


def _sections(report: Report, main: MainSystems, styles: Styles, found: Sequence[View]) -> list[Section]:
    parts = [
        result_section(report, styles, main),
        cost_section(report, styles, main),
        latency_section(report, styles, main),
        matrix_section(report, styles, main),
        agreement_section(report, styles, main),
        robustness_section(report, styles, main),
        seed_section(report),
        teacher_section(report, styles),
        speaker_section(report, styles, main),
        confusion_section(styles, main, report, found),
        training_section(report, styles),
        system_section(report, styles),
    ]
    return [part for part in parts if part is not None]


def _key_figures(report: Report, main: MainSystems, styles: Styles) -> Iterator[KeyFigure]:
    found = report.sets[main.test_set]
    for key in main.keys:
        low, high = found[key]["wer_low"], found[key]["wer_high"]
        under = "word error rate" if low is None else f"WER; 95 % interval {100 * low:.1f} to {100 * high:.1f}"
        yield KeyFigure(styles[key], f"{100 * found[key]['wer']:.2f}", "%", under)
    if main.baseline is not None:
        pair = found["comparisons"][0]
        if pair["gap_recovered"] is None:
            yield KeyFigure("gap recovered", "–", "", "undefined, see above")
            return
        value, low, high = (
            f"{100 * pair[f'gap_recovered{end}']:.0f}".replace("-", "−") for end in ("", "_low", "_high")
        )
        yield KeyFigure("gap recovered", value, "%", f"95 % interval {low} to {high}")


def _decoding(report: Report) -> str:
    """How posteriors became text, and with which language model; empty where only files of hypotheses were scored."""
    models = [model for model in report.summary["models"].values() if not model.get("hypotheses_sha256")]
    by_decoding: dict[str, list[str]] = {}
    for model in models:
        by_decoding.setdefault(_described(model.get("decoding")), []).append(model["name"])
    if len(by_decoding) < 2:
        return "".join(f"Decoding: {described}." for described in by_decoding)
    parts = [f"{', '.join(names)}: {described}" for described, names in by_decoding.items()]
    return f"Decoding: {'; '.join(parts)}."


def _described(decoding: Mapping[str, Any] | None) -> str:
    if not decoding:
        return "greedy, no language model"
    lm = decoding.get("lm")
    weight = f" (weight {decoding['lm_weight']:g})" if decoding.get("lm_weight") is not None else ""
    model = f"language model {PurePath(lm).name}{weight}" if lm else "no language model"
    lexicon = f", lexicon {PurePath(decoding['lexicon']).name}" if decoding.get("lexicon") else ""
    hotwords = f", {len(decoding['hotwords'])} hotwords" if decoding.get("hotwords") else ""
    return f"beam search, {model}{lexicon}{hotwords}"


def _seeds_notice(report: Report) -> str:
    seeds = report.summary["provenance"]["seeds"]
    if report.summary["seeds"]:
        return ""
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}): the intervals do not cover the variation between training runs."
    return f"Seeds: {', '.join(map(str, seeds))}." if seeds else "Seeds are not stated."


def _facts(report: Report) -> list[tuple[str, str]]:
    facts = report.summary["provenance"]
    machine, bootstrap = facts["machine"], facts["bootstrap"]
    known = {
        "Recipe": facts["recipe"],
        "Corpus": facts["corpus"],
        "Normalizer": f"{facts['normalizer']}, for references and every system alike",
        "Seeds": ", ".join(map(str, facts["seeds"])) or "not stated",
        "Sets used during training": ", ".join(facts["dev_sets"]) or None,
        "Intervals": f"bootstrap, {bootstrap['samples']} samples, seed {bootstrap['seed']}, percentile",
        "Date": facts["date"],
        "Command": facts["command"],
        "Git commit": facts["git_commit"] or "not in a checkout",
        "Machine": f"{machine['cpu']}, {machine['cpus']} CPUs ({machine['system']}), GPU: {machine['gpu'] or 'none'}",
        "Versions": ", ".join(f"{name} {number}" for name, number in facts["versions"].items()),
        "Files": "results.json, results.md, results.tex; hypotheses/SET/SYSTEM.jsonl; model cards in cards/",
    }
    return [(name, str(value)) for name, value in known.items() if value is not None]
