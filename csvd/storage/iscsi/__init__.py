"""LUNs of other iSCSI targets as disks, by our own initiator; `opening` is the kind of disk."""
