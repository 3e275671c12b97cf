"""Opens model folders and exported bundles after validating them, and turns audio into text with either.

Knows nothing of training, of how bundles are written, or of references and scores.
"""
