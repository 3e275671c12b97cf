"""Writes exported bundles and proves that they do what their models do. Reading them is ``runtime``'s."""
