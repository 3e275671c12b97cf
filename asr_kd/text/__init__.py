"""Text: comparable words (normalize) and the tokens a model writes (vocabulary)."""
