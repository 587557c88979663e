"""The area at the start of a shared disk: its owner, and its records. docs/cluster-disk.md has every offset."""
