"""The command line: a file a command, put together in `recsys.cli.main`."""
