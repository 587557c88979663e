"""A LUN as a file, by FUSE: the kernel's protocol on /dev/fuse, spoken here.

One file in one directory needs a dozen of FUSE's requests. They are spoken directly, for the bindings that there are
cost more than they give. pyfuse3 fits asyncio, but has no fallocate (and so no UNMAP), needs trio, and is built from
source with libfuse3's headers. mfusepy needs libfuse alone, but calls back from threads, each of which would have to
wait for the event loop. Here a request is one ``readv`` whose data are where the disk takes them from, and an answer
is one ``writev``. Measured side by side with a file that keeps nothing (fio, random reads at depth 16, O_DIRECT), the
processor time of the server for a read of 4 KiB was 39 µs here, 61 with mfusepy and 70 with pyfuse3; for one of 1 MiB
509, 1412 and 821.
"""
