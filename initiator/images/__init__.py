"""Images of disks: copied and compared between files and LUNs.

``plan`` decides and knows no input or output; ``file``, ``lun`` and ``stream`` are the ends; ``transfer`` runs a plan
between two of them; ``state`` is what a copy that was broken off goes on from.
"""
