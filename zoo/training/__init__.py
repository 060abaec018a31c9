"""Training: the step, the loop around it, and the run folder it leaves."""
