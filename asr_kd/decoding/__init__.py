"""Decoding: frame log-probabilities to tokens, words and times.

`base` holds the interfaces and hypotheses; `greedy` is the best path; `beam` is the prefix beam search of whole
utterances and of streams, with a `lexicon`, hotwords and a language model through `flashlight`.
`graph` writes decoding graphs for sherpa-onnx; `settings` also hold the rules by which an utterance has ended.
"""
