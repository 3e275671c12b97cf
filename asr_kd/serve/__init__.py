"""A websocket server that transcribes many clients in shared steps of one model, and its page.

The protocol is described in README.md beside this file.
"""
