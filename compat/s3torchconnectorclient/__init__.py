"""What `s3torchconnectorclient` is to `s3torchconnector`: the client below the classes, and its error."""
