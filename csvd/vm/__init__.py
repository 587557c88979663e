"""The VM role of a node: hypervisor drivers, and the guests that the register says are this node's.

`ownership` is the role, `handover` what a migration asks of it, `files` the images and notes on disk, `spec` what a
guest is made of. `process` is the driver of `guest`, a process whose RAM is a memory image laid out as `layout` says;
it speaks QMP, whose client is `qmp`. Another hypervisor is another driver of the shape `interfaces.GuestDriver`.
"""
