"""``python -m recsys`` is ``recsys``."""

from recsys.cli.main import main

if __name__ == "__main__":
    main(prog_name="recsys")
