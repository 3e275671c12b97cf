"""Training of teachers and students.

- `train`: trains one model; `training_context` has what it needs, `settings` the recipe's keys.
- `selection`: utterances, tokens, pseudo-labels; `batch_sampler`: batches of an epoch; `dataset`: features and targets
  of an utterance; `batch`: padding.
- `distiller`: the loop (a speechbrain Brain); `step`: one optimizer step; `gradients`: reduction of gradients over
  processes; `rates`: learning rates.
- `checkpoint`: exact resuming; `averaging`: moving average and mean of the best epochs; `warm_start`, `whisper_start`:
  initial weights.
"""
