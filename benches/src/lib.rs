//! Benchmarks and comparisons with other tools.
