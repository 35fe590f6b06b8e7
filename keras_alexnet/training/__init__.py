"""Section 5 of the paper: update rule, learning rate schedules, training steps, checkpoints and monitoring."""
