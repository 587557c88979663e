"""Images of a Ceph cluster as disks, by librbd through the modules `rados` and `rbd` that come with Ceph."""
