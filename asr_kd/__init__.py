"""asr_kd: turn a large acoustic model into a compact streaming one, and prove what it cost.

The folders follow the data: corpora → features → teachers → targets → models → losses → training →
decoding → evaluation → export.
"""

__version__ = "0.1.0"
