"""Bytes to messages and back; pure. `PROTOCOL.md` says who sends what, when."""
