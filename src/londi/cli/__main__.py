"""`python -m londi.cli`."""

from londi.cli import main

if __name__ == "__main__":
    main()
