"""A simulator: pymicro's own modules that choose and retry, against modelled nodes, in virtual time."""
