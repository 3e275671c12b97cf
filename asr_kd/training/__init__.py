"""Training of teachers and students.

- `train`: trains one model; `training_job` has what it needs, `settings` the recipe's keys.
- `selection`: utterances, tokens, pseudo-labels; `batch_sampler`: batches of an epoch; `dataset`: features and targets
  of an utterance; `batch`: padding.
- `distiller`: the loop (a speechbrain Brain); `step`: one optimizer step and its rates; `gradients`: reduction of
  gradients over processes.
- `checkpoint`: exact resuming, moving average, mean of the best epochs; `warm_start`: first weights.
"""
