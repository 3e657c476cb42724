"""Runs in the background, driven by Temporal: the same modes, steps and legs as in this process. Only `gate` may be
imported by who answers requests; it loads the rest where Temporal is enabled."""
