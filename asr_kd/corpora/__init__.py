"""Corpora: folders of speech into manifests, and what is wrong with them.

One reader a corpus (an4, librispeech, synthetic) behind `prepare`; knows nothing of features or models.
"""
