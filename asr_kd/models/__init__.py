"""The acoustic model: one Conformer–CTC definition for full context, masked chunks and streaming."""
