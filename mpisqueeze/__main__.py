"""`python -m mpisqueeze` is the console script."""

from mpisqueeze.cli import main

if __name__ == "__main__":
    main()
