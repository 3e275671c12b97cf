"""Manifests of other tools, read and written, one format a file: lhotse, NeMo, SpeechBrain, Kaldi.

None of those tools is needed for it. What a row says and an utterance cannot is counted; a row that cannot be an
utterance is listed with the reason; a row that is not in its format is an error.
"""
