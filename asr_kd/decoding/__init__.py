"""From frame log-probabilities to tokens. Knows tensors; nothing of models, audio or files."""
