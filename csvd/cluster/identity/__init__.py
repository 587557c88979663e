"""Who a node is: the cluster's authority, the nodes' certificates, the tokens to join by, and the files of all that."""
