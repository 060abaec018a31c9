"""Image grids, plots, tables and the HTML page, made from plain arrays and log rows; nothing here knows a trainer."""
