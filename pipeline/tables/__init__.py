"""The one columnar store on Zarr: declared columns, ragged (offsets) or of a fixed shape; shards, sealing, verifying.

`table_format` declares a kind of table; `shard_files` and `sealing` write one, `in_place` one whose bulk is too
large to be written twice; `table_store` reads one and `verifying` checks it. Nothing here knows what a table is about.
"""
