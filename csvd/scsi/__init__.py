"""SCSI, PURE: one row a command, sense data, VPD and mode pages, and the target device that runs them.

Start reading at `target_device.TargetDevice`; the rows are in `commands`.
"""
