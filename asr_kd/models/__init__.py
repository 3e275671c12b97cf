"""Acoustic models: a Conformer and Whisper's encoder, each with a CTC head.

Each is one definition for full context, masked chunks and streaming.

- `acoustic_model`: what both have in common; `conformer`, `whisper`; `layers`: their parts.
- `settings`: the recipe's keys; `weights`: model folders.
"""
