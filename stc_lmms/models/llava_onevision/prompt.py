"""The prompt of the ReKV and STC drivers, around the video; byte for byte."""

REKV_PREFIX = "<|im_start|>system \nYou are a helpful assistant.<|im_end|><|im_start|>user "
REKV_SUFFIX = "\n{question}<|im_end|><|im_start|>assistant\n"
