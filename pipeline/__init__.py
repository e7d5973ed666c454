"""The S⁴M library: everything that computes. It prints nothing and knows no command line."""
