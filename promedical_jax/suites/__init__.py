"""The suites that a paper on medical alignment is expected to report, each by its official formula: a file a suite or family; no jax."""
