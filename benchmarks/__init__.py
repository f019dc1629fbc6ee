"""Benchmarks: ratios of contenders that are timed alternately in one process."""
