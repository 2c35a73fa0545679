"""`python -m potluck.cli`: the same as `potluck`, from an environment whose scripts cannot be found."""

from potluck.cli.app import main

if __name__ == "__main__":
    main()
