"""Objects as files to read: in one stream, by ranges, or as a load plan of torch.distributed.checkpoint asks for them."""
