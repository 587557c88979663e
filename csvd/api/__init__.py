"""The control API: HTTP on a Unix socket, JSON in and out. The command line speaks only to it."""
