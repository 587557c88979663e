"""``csvd demo``: three nodes on this machine, one shared disk, an initiator, a live migration, a killed coordinator.

It is a client like any other: daemons in processes of their own, the control API, the command line and the initiator.
"""
