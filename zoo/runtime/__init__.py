"""How computation runs: device, processes, precision, random numbers, speed."""
