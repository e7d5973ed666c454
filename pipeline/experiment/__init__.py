"""The experiment: what a user asks for, checked as a whole and frozen."""
