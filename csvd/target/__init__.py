"""The network side of csvd.iscsi: listeners, connections, and the way from a SCSI task to a disk."""
