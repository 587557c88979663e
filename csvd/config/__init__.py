"""The configuration of a node: a TOML file, checked as a whole before anything is started.

``csvd.config.load`` reads it, ``csvd.config.schema`` declares its sections and keys.
"""
