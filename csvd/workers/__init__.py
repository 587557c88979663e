"""Worker processes: the data path of a node's targets in processes of their own, under the daemon that steers them."""
