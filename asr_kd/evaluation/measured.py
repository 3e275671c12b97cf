"""What was measured beside the errors, as plain data, and where it stands in results.json.

What could not be measured is null, beside a key that ends in `_reason`. Knows nothing of how it was measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Plain = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """Plain data by set and system's key."""

    systems: Mapping[str, Mapping[str, Plain]] = field(default_factory=dict)
    """Set → system → `delay`, `stability`, `trailing_silence`."""
    agreement: Mapping[str, Mapping[str, Plain]] = field(default_factory=dict)
    """Set → system → `frame_kl`, `argmax_agreement` …, which stand beside the agreement in words."""
    costs: Mapping[str, Plain] = field(default_factory=dict)
    """System → what running it takes."""
    matrix: Mapping[str, list[Plain]] = field(default_factory=dict)
    """System → a row for each set, chunk and left context."""
    robustness: Mapping[str, list[Plain]] = field(default_factory=dict)
    """System → a row for each set and condition."""

    def added_to(self, summary: Plain) -> Plain:
        """The summary with what was measured in its places."""
        sets = {name: self._set(name, found) for name, found in summary["test_sets"].items()}
        models = {
            key: {**model, "cost": self.costs[key]} if key in self.costs else model
            for key, model in summary["models"].items()
        }
        return {
            **summary,
            "test_sets": sets,
            "models": models,
            "matrix": {key: list(rows) for key, rows in self.matrix.items()},
            "robustness": {key: list(rows) for key, rows in self.robustness.items()},
        }

    def _set(self, name: str, found: Plain) -> Plain:
        measured, frames = self.systems.get(name, {}), self.agreement.get(name, {})
        added = {key: {**found[key], **plain} for key, plain in measured.items() if key in found}
        if frames:
            words = found.get("agreement", {})
            added["agreement"] = {
                key: {**words.get(key, {}), **frames.get(key, {})} for key in dict.fromkeys([*words, *frames])
            }
        return {**found, **added}
