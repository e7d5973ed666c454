"""SAM: its weights, its models, and an engine that encodes images and decodes prompts in batches."""
