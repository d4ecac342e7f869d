"""The commands of `stc-lmms`, one file each."""
