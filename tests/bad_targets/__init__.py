"""Targets that mean no good: what they say to our initiator over real sockets, and the typed error that comes of it."""
