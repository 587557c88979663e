"""Scripts of what initiators do, played to targets that should not differ, and to a model of the disk."""
