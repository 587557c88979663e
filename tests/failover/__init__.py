"""How long nothing can be changed, and an initiator waits, when a node of a real cluster fails: `make failover`."""
