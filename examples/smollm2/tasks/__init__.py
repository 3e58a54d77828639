"""One module for each kind of training prompt; each has `prompt(rng, ...) -> str`."""
