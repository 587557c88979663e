"""A LUN as a file, by FUSE: the kernel's protocol on /dev/fuse, spoken here.

One file in one directory needs a dozen of FUSE's requests. They are spoken directly, for the bindings that there are
cost more than they give: pyfuse3 has no fallocate (and so no UNMAP) and is built from source; libfuse's high-level
interface (mfusepy) calls back from threads of its own, each of which would wait for the event loop. Here a request is
one ``readv``, its data are where the disk takes them from, and its answer is one ``writev``.
"""
