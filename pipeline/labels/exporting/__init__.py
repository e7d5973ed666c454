"""Labels in the formats of other tools: `export.export_labels` writes any of them. `docs/formats.md` describes each."""
