"""Assemble the report of an evaluation: headline, key figures, notices, sections and facts, in their order."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from asr_kd.evaluation.cells import points, signed
from asr_kd.evaluation.report.document import Document, KeyFigure
from asr_kd.evaluation.report.error_sections import confusion_section, result_section, seed_section, speaker_section
from asr_kd.evaluation.report.loading import Report
from asr_kd.evaluation.report.measure_sections import (
    agreement_section,
    latency_section,
    matrix_section,
    robustness_section,
)
from asr_kd.evaluation.report.model_sections import (
    cost_section,
    pseudo_label_section,
    system_section,
    teacher_section,
    training_section,
)

SECTIONS = (
    result_section,
    cost_section,
    latency_section,
    matrix_section,
    agreement_section,
    robustness_section,
    seed_section,
    teacher_section,
    pseudo_label_section,
    speaker_section,
    confusion_section,
    training_section,
    system_section,
)
SYNTHETIC_NOTICE = "Synthetic speech: these results do not apply to real speech."


def assemble(report: Report) -> Document:
    """The whole report as data, fresh or read again."""
    facts = report.summary["provenance"]
    sections = [build(report) for build in SECTIONS] if report.sets else []
    title, lead = headline(report)
    return Document(
        title=f"asr-kd report: {facts['recipe'] or ', '.join(report.sets) or 'nothing'}",
        kicker=" · ".join(part for part in (facts["recipe"], str(facts["date"])[:10]) if part),
        headline=title,
        lead=lead,
        settings=f"{_decoding(report)} Normalizer: {facts['normalizer']}. {_seeds_notice(report)}".strip(),
        figures=list(_key_figures(report)) if report.sets else [],
        warning=SYNTHETIC_NOTICE if facts["synthetic"] else "",
        notices=notices(report),
        sections=[section for section in sections if section.blocks or section.figures],
        key=list(report.styles.values()),
        facts=_facts(report),
        footer="Written by asr-kd evaluate. This file loads nothing from elsewhere.",
    )


def notices(report: Report) -> list[str]:
    """Sets whose references are pseudo-labels, and sets and systems that were not evaluated."""
    summary = report.summary
    pseudo = [
        f"{test_set} has no transcripts: its references are the pseudo-labels {name!r} of {found['source']}, "
        "and a WER on it is the distance to that model."
        for name, found in summary.get("pseudo_labels", {}).items()
        for test_set in found["references_of"]
    ]
    skipped = {name: found["skipped"] for name, found in summary["test_sets"].items() if "skipped" in found}
    absent = {**skipped, **summary["absent_systems"]}
    return pseudo + [f"Not evaluated: {name} ({reason})." for name, reason in absent.items()]


def _key_figures(report: Report) -> Iterator[KeyFigure]:
    found = report.sets[report.main.test_set]
    for key in report.main.keys:
        low, high = found[key]["wer_low"], found[key]["wer_high"]
        under = "word error rate" if low is None else f"WER; 95 % interval {100 * low:.1f} to {100 * high:.1f}"
        yield KeyFigure(report.styles[key], f"{100 * found[key]['wer']:.2f}", "%", under)
    if report.main.baseline is not None:
        pair = found["comparisons"][0]
        if pair["gap_recovered"] is None:
            yield KeyFigure("gap recovered", "–", "", "undefined, see above")
            return
        value, low, high = (signed(f"{100 * pair[f'gap_recovered{end}']:.0f}") for end in ("", "_low", "_high"))
        yield KeyFigure("gap recovered", value, "%", f"95 % interval {low} to {high}")


def headline(report: Report) -> tuple[str, Sequence[str]]:
    """The finding of the main set's first comparison, and sentences; without a comparison, the student's error rate."""
    if not report.sets:
        return "No set was evaluated", ["There was no test set. The notices below give the reasons."]
    main = report.main
    found = report.sets[main.test_set]
    rate = {key: f"{100 * found[key]['wer']:.2f} %" for key in main.keys}
    if not found["comparisons"]:
        sentences = [f"On {main.test_set}: {found['utterances']} utterances, {found[main.student]['words']} words."]
        if main.teacher is not None:
            sentences.append(f"Its teacher, {report.name(main.teacher)}, has {rate[main.teacher]}.")
        return f"{report.name(main.student)} has a word error rate of {rate[main.student]}", sentences
    pair = found["comparisons"][0]
    low, high, wer = (pair["difference"][name] for name in ("low", "high", "wer"))
    title = f"Distillation {'reduces' if wer < 0 else 'increases'} the word error rate by {abs(100 * wer):.1f} points"
    if low is None or low <= 0 <= high:
        title = "Distillation made no significant difference on this test set"
    rates = f"On {main.test_set}, {report.name(main.student)} has a WER of {rate[main.student]}"
    if main.baseline is not None:
        rates += f", the same student without distillation ({report.name(main.baseline)}) {rate[main.baseline]}"
    if main.teacher is not None:
        rates += f", and the teacher ({report.name(main.teacher)}) {rate[main.teacher]}"
    return title, [f"{rates}.", _difference(pair["difference"], found["resampled_by"]), _gap_sentence(pair)]


def _difference(difference: Mapping[str, Any], resampled_by: str) -> str:
    low, high = difference["low"], difference["high"]
    if low is None:
        return f"The difference is {points(difference['wer'])} points; there is too little data for an interval."
    spread = (
        f"The difference is {points(difference['wer'])} points, 95 % interval {points(low)} to {points(high)} "
        f"(paired bootstrap over {resampled_by})"
    )
    if low <= 0 <= high:
        return f"{spread}: it is compatible with chance."
    return f"{spread}: its sign is significant on this set. Another training seed may still change it."


def _gap_sentence(pair: Mapping[str, Any]) -> str:
    if pair["gap_recovered"] is None:
        reason = re.sub(r"-(?=\d)", "−", pair["gap_recovered_reason"])
        return f"The share of the gap to the teacher that was recovered is undefined: {reason}."
    value, low, high = (100 * pair[f"gap_recovered{end}"] for end in ("", "_low", "_high"))
    sentence = signed(
        f"Distillation recovers {value:.0f} % of the gap between the student without distillation and the teacher, "
        f"95 % interval {low:.0f} to {high:.0f} %"
    )
    if high < 0:
        return f"{sentence}: the student with distillation is farther from the teacher."
    return f"{sentence}: recovering nothing is not excluded." if low <= 0 else f"{sentence}."


def _decoding(report: Report) -> str:
    """How posteriors became text, and with which language model; empty where only files of hypotheses were scored."""
    by_decoding: dict[str, list[str]] = {}
    for model in report.summary["models"].values():
        if not model.get("hypotheses_sha256"):
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
