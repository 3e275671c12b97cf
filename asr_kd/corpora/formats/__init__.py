"""Readers and writers of manifests of other tools: lhotse, NeMo, SpeechBrain, Kaldi. The tools are not needed.

Fields without a counterpart are counted; rows that cannot be utterances are listed with the reason; malformed rows are
errors.
"""
