"""Scoring of transcripts: word and character errors, confidence intervals, significance tests, agreement.

`transcripts` reads and writes files (`formats`); `wer` aligns texts and counts errors; `significance` gives intervals
by bootstrap, and `paired` compares two systems word by word.
"""
