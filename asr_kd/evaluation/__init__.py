"""Evaluation: transcribe test sets with teachers and students alike, score and measure them, and write one report."""
