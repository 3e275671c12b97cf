"""The tests; shared helpers are in `tests.helpers`."""
