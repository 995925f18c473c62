"""`python -m s3dlio`: the command line."""

from s3dlio.engine.cli.app import main

if __name__ == "__main__":
    main()
