"""Benchmarks: ratios, both sides measured in one run; and a language model played alone."""
