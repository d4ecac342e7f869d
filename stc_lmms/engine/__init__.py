"""One stream of frames through a model: encoding, asking, timing."""
