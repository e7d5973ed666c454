"""The one columnar store on Zarr: declared columns, ragged (offsets) or of a fixed shape; shards, sealing, verifying.

`table_format` declares a kind of table. `shard_files` and `sealing` write a table, `in_place` one that is too large to
be written twice, `table_store` reads one and `verifying` checks one. The package does not depend on what a table holds.
"""
