"""A whole cluster of daemons on hosts of their own, and everything that can befall it. Needs root: see .ci/test."""
