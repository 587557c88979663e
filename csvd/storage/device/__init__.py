"""SCSI disks of the kernel (/dev/sdX): what a file descriptor does not give of them."""
