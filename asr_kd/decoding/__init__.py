"""From frame log-probabilities to tokens, words and times. Knows tensors and vocabularies, not models or audio."""
