"""One file per compatible-training method; a file dropped in here is discovered by its name."""
