"""The command line `s3dlio`, and the demo behind `make run`. `app.py` is where it begins."""
