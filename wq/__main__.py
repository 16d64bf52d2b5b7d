"""Runs the command `wq` as `python -m wq`."""

from wq.cli import main

if __name__ == "__main__":
    main()
