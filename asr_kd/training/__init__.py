"""Training a model, teacher or student: data, schedule, checkpoints and the loop (a speechbrain Brain)."""
