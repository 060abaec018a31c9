"""Where a training step spends its time, and the roofline it could reach."""
