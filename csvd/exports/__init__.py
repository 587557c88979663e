"""What a node exports: targets, logical units and who may use them, as configured and as changed at run time."""
