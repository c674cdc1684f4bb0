"""One function per figure: arrays in, a matplotlib figure out."""
