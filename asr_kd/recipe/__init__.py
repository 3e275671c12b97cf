"""A recipe file: its settings, its stages in order, and the running of what is not yet done."""
