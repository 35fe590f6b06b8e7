"""Section 5 of the paper: the update rule, the schedules, the loop and what is written while it runs."""
