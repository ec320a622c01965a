"""`python -m nasx` is `nasx`."""

from nasx.cli.main import main

if __name__ == "__main__":
    main()
