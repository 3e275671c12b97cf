"""Decoding: frame log-probabilities to tokens, words and times."""
