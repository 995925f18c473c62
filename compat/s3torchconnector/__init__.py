"""The classes of `s3torchconnector`, on this engine. Names, signatures, defaults and texts of errors are those of release 1.5.0."""
