"""The report: an HTML page of one experiment, and one that compares several. It needs no network."""
