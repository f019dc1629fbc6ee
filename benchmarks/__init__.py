"""Benchmarks: every number is a ratio of contenders that are timed in turn in one process."""
