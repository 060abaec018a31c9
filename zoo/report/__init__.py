"""Pictures and plots of a run, from plain arrays and plain log rows; nothing here knows a trainer."""
