"""What two or more rooms use unchanged: masks, input errors, the log-sum-exp merge."""
