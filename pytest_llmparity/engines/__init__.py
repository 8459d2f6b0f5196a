"""Engine kinds, their environments, and the supervision of their processes."""
