"""Delay, stability, silence, cost, matrix and robustness of results.json as Markdown. An older report has none of them.

Works on the plain data of `summary`. Knows nothing of how numbers were measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asr_kd.evaluation.cells import UNKNOWN, escape, millions, percent, pipe_table

Plain = Mapping[str, Any]

_DELAY = (
    "System",
    "Chunk",
    "Emission, ms",
    "first token",
    "end of speech",
    "Available, ms",
    "first token",
    "end of speech",
)
_FRAMES = (
    "System", "Frame KL", "Same token, %", "not blank",
    "Best shift, ms", "Frame KL", "Same token, %", "not blank",
)  # fmt: skip
_STEADY = ("System", "Revised a word", "Grown", "Extra words, digital silence", "quiet room", "Utterances")
_DELAY_LEGEND = (
    "Median (90th percentile) over tokens that student and teacher both got right, against forced alignment of the "
    "reference with the teacher's posteriors. Emission: from the token's frame in that alignment to the frame in which "
    "the student emits it. Available: from the same frame to the end of the audio that must be heard before the "
    "student's frame can be computed, which is the end of its chunk; computing time comes on top. End of speech: from "
    "the end of the last token."
)
_SILENCE_LEGEND = (
    "Revised: words a final word that were shown and then changed; grown: a last word that was written on. Extra "
    "words: words that appear when {seconds:g} s of digital silence, or of a quiet room (pink noise, −60 dBFS), follow."
)
_FRAMES_LEGEND = (
    "KL(teacher ‖ student) in nats a frame; same token: frames in which both find the same likeliest token, and among "
    "those in which the teacher's is not blank."
)
_CONDITIONS_LEGEND = (
    "The same utterances under each condition, for every system alike, drawn by utterance id. babble, pink: five other "
    "utterances of the set, or pink noise, so many dB below the utterance; reverb: a room of that RT60 in seconds, "
    "direct and reverberant sound equally strong; telephone: 300–3,400 Hz at 8 kHz, coded; codec: encoded and decoded "
    "by libsndfile at its default rate; speed: tempo and pitch; gain: dB."
)
_COST = ("System", "Parameters", "MACs/s", "fp32", "int8", "RTF", "streamed", "Memory", "Chunk p50", "p99", "J/hour")


def set_sections(found: Plain) -> Iterator[str]:
    """What was measured on one test set beside the errors."""
    systems = {key: value for key, value in found.items() if isinstance(value, Mapping) and "words" in value}
    late = [_delay_cells(row["name"], row["delay"]) for row in systems.values() if row.get("delay")]
    if late:
        yield "### How late"
        yield pipe_table(_DELAY, late, left=1)
        yield _DELAY_LEGEND
    frames = {key: row for key, row in found.get("agreement", {}).items() if row.get("frame_kl") is not None}
    if frames:
        yield "### Frames beside the teacher's"
        yield pipe_table(_FRAMES, [_frame_cells(systems, key, row) for key, row in frames.items()], left=1)
        yield _FRAMES_LEGEND
    steady = [row for row in systems.values() if row.get("stability") or row.get("trailing_silence")]
    if steady:
        yield "### What is shown before the end, and after it"
        yield pipe_table(_STEADY, [_steady_cells(row) for row in steady], left=1)
        seconds = next((row["trailing_silence"]["seconds"] for row in steady if row.get("trailing_silence")), 0)
        yield _SILENCE_LEGEND.format(seconds=seconds)


def cost_sections(models: Mapping[str, Plain]) -> Iterator[str]:
    """What running each system takes."""
    costs = {key: model for key, model in models.items() if "cost" in model}
    if not costs:
        return
    yield "## Cost"
    yield pipe_table(_COST, [_cost_cells(model) for model in costs.values()], left=1)
    yield (
        "MACs/s: multiply-accumulates a second of speech; RTF and chunks: one thread, features and decoding included; "
        "Memory: largest resident size of a process of its own, Python and torch in it (before the model was opened)."
    )
    reasons = [f"- {escape(model['name'])}: {text}" for model in costs.values() for text in _reasons(model["cost"])]
    if reasons:
        yield "\n".join(reasons)


def sweep_sections(summary: Plain) -> Iterator[str]:
    """The matrix and the conditions, a table each system and set."""
    names = {key: model["name"] for key, model in summary["models"].items()}
    for key, rows in summary.get("matrix", {}).items():
        for name in dict.fromkeys(row["set"] for row in rows):
            yield f"## Chunk and left context: {escape(names[key])}, {escape(name)}"
            yield _matrix_table([row for row in rows if row["set"] == name])
    if any(not row["trained"] for rows in summary.get("matrix", {}).values() for row in rows):
        yield "\\* not among the contexts that the model was trained with."
    robustness = summary.get("robustness", {})
    for name in dict.fromkeys(row["set"] for rows in robustness.values() for row in rows):
        yield f"## Robustness: {escape(name)}, WER %"
        yield _robustness_table(names, {key: [r for r in rows if r["set"] == name] for key, rows in robustness.items()})
    if robustness:
        yield _CONDITIONS_LEGEND


def _matrix_table(rows: Sequence[Plain]) -> str:
    """A line for each chunk; a column of WER for each left context; the delay of the longest."""
    lefts = sorted({row["left_context_ms"] for row in rows})
    header = ["Chunk, ms", *(f"WER %, left {left} ms" for left in lefts), "Emission, ms", "Available", "End of speech"]
    lines = []
    for chunk in sorted({row["chunk_ms"] for row in rows}):
        cells = {row["left_context_ms"]: row for row in rows if row["chunk_ms"] == chunk}
        longest = cells[max(cells)].get("delay")
        lines.append([str(chunk), *(_wer(cells.get(left)) for left in lefts), *_matrix_delay(longest)])
    return pipe_table(header, lines, left=0)


def _matrix_delay(delay: Plain | None) -> list[str]:
    if not delay:
        return [UNKNOWN] * 3
    available = delay["available"]
    return [_spread(delay["emission"]["tokens"]), _spread(available["tokens"]), _spread(available["end_of_speech"])]


def _wer(row: Plain | None) -> str:
    return UNKNOWN if row is None else percent(row["wer"]) + ("" if row["trained"] else " *")


def _robustness_table(names: Mapping[str, str], rows: Mapping[str, Sequence[Plain]]) -> str:
    conditions = list(dict.fromkeys(row["condition"] for found in rows.values() for row in found))
    by_name = {key: {row["condition"]: row for row in found} for key, found in rows.items()}
    lines = [
        [
            condition,
            *(percent(found[condition]["wer"]) if condition in found else UNKNOWN for found in by_name.values()),
        ]
        for condition in conditions
    ]
    return pipe_table(["Condition", *(names[key] for key in by_name)], lines, left=1)


def _delay_cells(name: str, delay: Plain) -> list[str]:
    available = delay["available"]
    parts = ("tokens", "first_token", "end_of_speech")
    chunk = f"{delay['chunk_frames'] * 40} ms" if delay["chunk_frames"] else "whole"
    return [
        name,
        chunk,
        *(_spread(delay["emission"][part]) for part in parts),
        *(_spread(available[part]) if available else UNKNOWN for part in parts),
    ]


def _frame_cells(systems: Plain, key: str, row: Plain) -> list[str]:
    best = row["at_best_shift"]
    return [
        systems[key]["name"] if key in systems else key,
        f"{row['frame_kl']:.3f}",
        _share(row["argmax_agreement"]),
        _share(row["spoken_agreement"]),
        str(best["shift_ms"]),
        f"{best['frame_kl']:.3f}",
        _share(best["argmax_agreement"]),
        _share(best["spoken_agreement"]),
    ]


def _steady_cells(row: Plain) -> list[str]:
    stability, silence = row.get("stability"), row.get("trailing_silence")
    return [
        row["name"],
        _rate(stability["revised_per_word"]) if stability else UNKNOWN,
        _rate(stability["grown_per_word"]) if stability else UNKNOWN,
        *(str(silence[kind]["extra_words"]) if silence else UNKNOWN for kind in ("digital", "room")),
        str((silence or stability or {})["utterances"]),
    ]


def _cost_cells(model: Plain) -> list[str]:
    cost = model["cost"]
    chunk = cost["chunk_ms"] or {"p50": None, "p99": None}
    return [
        model["name"],
        millions(cost["parameters"]),
        _scaled(cost["macs_per_second"], 1e6, " M"),
        _scaled(cost["size_bytes"]["fp32"], 1e6, " MB"),
        _scaled(cost["size_bytes"]["int8"], 1e6, " MB") + ("*" if "estimate" in cost["size_bytes"]["int8_of"] else ""),
        _number(cost["rtf"]["whole"]),
        _number(cost["rtf"]["streamed"]),
        _memory(cost),
        _scaled(chunk["p50"], 1, " ms"),
        _scaled(chunk["p99"], 1, " ms"),
        _scaled(cost["energy_j_per_hour"], 1, ""),
    ]


def _reasons(cost: Plain) -> Iterator[str]:
    yield f"MACs of {escape(cost['macs_of'])}; int8: {escape(cost['size_bytes']['int8_of'])}"
    for what, key in (("memory", "rss_reason"), ("energy", "energy_reason")):
        if cost[key]:
            yield f"{what}: {escape(cost[key])}"


def _memory(cost: Plain) -> str:
    if cost["rss_bytes"] is None:
        return UNKNOWN
    return f"{cost['rss_bytes'] / 1e6:.0f} MB ({cost['rss_before_bytes'] / 1e6:.0f})"


def _spread(part: Plain) -> str:
    return UNKNOWN if part["median_ms"] is None else f"{part['median_ms']:.0f} ({part['p90_ms']:.0f})"


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{100 * value:.1f}"


def _rate(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2g}"


def _scaled(value: float | None, unit: float, name: str) -> str:
    return UNKNOWN if value is None else f"{value / unit:.1f}{name}"
