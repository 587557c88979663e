"""Whether what clients saw of a shared object could have come of one copy of it: a checker of linearizability. PURE.

A history is recorded by clients: when each call began, when it ended, and what it answered, if it did. It is
linearizable (Herlihy and Wing 1990) where every call can be given a moment between its beginning and its end, at which
it took effect at once, so that a sequential object would have answered the same.
"""
