"""`python -m nasx` is `nasx`."""

from nasx.cli import main

if __name__ == "__main__":
    main()
