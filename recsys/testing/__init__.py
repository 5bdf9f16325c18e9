"""Public conformance suites: inherit one to test a model, a data set or a table."""
