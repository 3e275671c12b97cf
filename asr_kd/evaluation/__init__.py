"""Teacher and students through the same door: errors, how sure they are, what they cost, one report.

Knows nothing of training or export; a system is anything that turns waveforms into text.
"""
