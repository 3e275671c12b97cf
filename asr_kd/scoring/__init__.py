"""Scoring of transcripts: word and character errors, confidence intervals, significance tests, agreement."""
