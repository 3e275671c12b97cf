"""The live demo: a websocket server that hears many clients in shared steps of one model, and its page.

The protocol is in README.md beside this file. Knows recognizers; nothing of training or export.
"""
