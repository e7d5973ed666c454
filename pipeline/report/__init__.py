"""The report: one HTML page an experiment, and one that lays several side by side. No network, no plotting library."""
