"""A load put on a LUN, and what it measures: rates, and latencies in a histogram."""
