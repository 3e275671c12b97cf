"""Waveforms in, log-mel filter banks out, and the augmentation of both."""
