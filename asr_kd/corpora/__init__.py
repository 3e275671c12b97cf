"""Corpora: one reader per corpus behind `prepare`, manifests, and checks of utterances."""
