"""Labels for people to correct, and what they corrected taken back as labelled data."""
