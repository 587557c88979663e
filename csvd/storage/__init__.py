"""Disks: the only room that touches the data bytes on a disk. `open_disk` opens one by its URL."""
