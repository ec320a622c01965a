"""Entry point of `python -m nasx`, which is equivalent to `nasx`."""

from nasx.cli.main import main

if __name__ == "__main__":
    main()
