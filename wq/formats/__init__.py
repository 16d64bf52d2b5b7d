"""Files of measurements as readings: which formats are known, how a column map is written, how rows become columns."""
