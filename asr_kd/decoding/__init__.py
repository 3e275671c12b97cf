"""From frame log-probabilities to tokens, words and times. Knows tensors and vocabularies; nothing of models or audio."""
